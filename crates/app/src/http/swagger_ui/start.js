window.ui = SwaggerUIBundle({
  url: "/api/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  // No document from the query, and no validator on another host.
  queryConfigEnabled: false,
  validatorUrl: null,
});
