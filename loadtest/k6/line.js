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

import { check, sleep } from "k6";

import { join, nextToken, onSale } from "./sale.js";

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

export const setup = onSale;

export default function ({ performance }) {
  const answer = join(performance, nextToken());
  check(answer, {
    "has a place": ({ status, body }) => (status === 201 || status === 200) && String(body).includes('"place"'),
  });
  sleep(0.1);
}
