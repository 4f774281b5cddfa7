// One seat that everybody wants: exactly one person may get it.
//
// Everybody needs a pass first, so set `line.capacity` to at least BUYERS.
//
// Environment, beside that of line.js:
//   BUYERS  people who want the seat at once (200)
//   SEAT    the seat (A-1-1)

import { check, fail, sleep } from "k6";
import { Counter } from "k6/metrics";

import { hold, join, nextToken, onSale } from "./sale.js";

const held = new Counter("holds_of_the_seat");

export const options = {
  scenarios: {
    rush: { executor: "per-vu-iterations", vus: Number(__ENV.BUYERS || 200), iterations: 1, maxDuration: "2m" },
  },
  thresholds: {
    checks: ["rate==1"],
    holds_of_the_seat: ["count==1"],
    "http_req_duration{name:hold}": [`p(95)<${__ENV.P95_MS || 400}`],
  },
};

export function setup() {
  // All ask in the same instant, once everybody has a pass.
  return { ...onSale(), at: Date.now() + 15_000 };
}

export default function ({ performance, at }) {
  const token = nextToken();
  const place = join(performance, token).json();
  if (place.state !== "admitted") {
    fail(`is not admitted but ${place.state}: raise line.capacity`);
  }
  sleep(Math.max(0, at - Date.now()) / 1000);
  const wish = { seats: [__ENV.SEAT || "A-1-1"] };
  const answer = hold(performance, token, place.pass.token, wish, `hotseat-${at}-${__VU}`);
  held.add(answer.status === 201 ? 1 : 0);
  check(answer, {
    "is held, or told that the seat is taken": ({ status, body }) =>
      status === 201 || (status === 409 && String(body).includes("seat-taken")),
  });
}
