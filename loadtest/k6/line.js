// The opening of a sale: a growing crowd joins one line, each person once.
//
// 10 s up to 500 users, 30 s up to 1,000, 10 s down; each user joins, waits 0.1 s, and goes on as the next person. The
// ramp is that of the published measurement of the system that Usher follows, but joins need an access token here.
//
// Environment:
//   TOKENS       file of access tokens, one on each line, from `usher token mint --count N`
//   URL          the server (http://127.0.0.1:8080)
//   PERFORMANCE  the performance whose line is joined (the first whose sale is open)
//   P95_MS       bound of the 95th percentile of joins, in ms (400)

import { check, fail, sleep } from "k6";
import { SharedArray } from "k6/data";
import exec from "k6/execution";
import http from "k6/http";

const API = `${__ENV.URL || "http://127.0.0.1:8080"}/api/v1`;

if (!__ENV.TOKENS) {
  throw new Error("TOKENS must name a file of access tokens: usher token mint --count 200000 > tokens.txt");
}
const tokens = new SharedArray("tokens", () => open(__ENV.TOKENS).split("\n").filter((line) => line !== ""));

export const options = {
  stages: [
    { duration: "10s", target: 500 },
    { duration: "30s", target: 1000 },
    { duration: "10s", target: 0 },
  ],
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    "http_req_duration{name:join}": [`p(95)<${__ENV.P95_MS || 400}`],
  },
};

// Reads a whole list, page by page.
function all(path) {
  const items = [];
  let cursor = "";
  do {
    const answer = http.get(`${API}${path}?limit=200${cursor}`, { tags: { name: "setup" } });
    if (answer.status !== 200) {
      fail(`GET ${path}: ${answer.status} ${answer.error || answer.body}`);
    }
    const page = answer.json();
    items.push(...page.items);
    cursor = page.next_cursor ? `&cursor=${encodeURIComponent(page.next_cursor)}` : "";
  } while (cursor);
  return items;
}

export function setup() {
  if (__ENV.PERFORMANCE) {
    return { performance: __ENV.PERFORMANCE };
  }
  for (const concert of all("/concerts")) {
    const onSale = all(`/concerts/${concert.id}/performances`).find((performance) => performance.sale_state === "open");
    if (onSale) {
      return { performance: onSale.id };
    }
  }
  return fail("no performance is on sale");
}

export default function ({ performance }) {
  // Each iteration is the next person; after the last token people join again and get the place that they have.
  const token = tokens[exec.scenario.iterationInTest % tokens.length];
  const answer = http.post(`${API}/performances/${performance}/queue`, null, {
    headers: { Authorization: `Bearer ${token}` },
    tags: { name: "join" },
  });
  check(answer, {
    "has a place": ({ status, body }) => (status === 201 || status === 200) && String(body).includes('"place"'),
  });
  sleep(0.1);
}
