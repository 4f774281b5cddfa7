// A sale as people live it: they join, poll as told, think, hold the best seats, think again, and pay; some give up on the
// way. The run goes on when the sale is sold out: people are then told so.
//
// Environment, beside that of line.js:
//   BUYERS    people in the sale at once (24)
//   DURATION  how long people come (60s)
//   ABANDON   share of people who give up at each step (0.1)

import { check, sleep } from "k6";
import { Counter } from "k6/metrics";
import http from "k6/http";

import { API, hold, join, nextToken, onSale, poll } from "./sale.js";

const ABANDON = Number(__ENV.ABANDON || 0.1);
const outcomes = new Counter("visits");

export const options = {
  scenarios: {
    sale: { executor: "constant-vus", vus: Number(__ENV.BUYERS || 24), duration: __ENV.DURATION || "60s" },
  },
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    "http_req_duration{name:hold}": [`p(95)<${__ENV.P95_MS || 400}`],
  },
};

export const setup = onSale;

function think(seconds) {
  sleep(seconds * (0.5 + Math.random()));
}

function key() {
  return `${Date.now()}-${Math.random().toString(36).slice(2)}-${__VU}`;
}

export default function ({ performance }) {
  outcomes.add(1, { outcome: visit(performance, nextToken()) });
}

function visit(performance, token) {
  let answer = join(performance, token);
  let place;
  for (;;) {
    if (!check(answer, { "shows a place": ({ status }) => status === 200 || status === 201 })) {
      sleep(1);
      return "refused";
    }
    place = answer.json();
    if (place.state !== "waiting") {
      break;
    }
    if (place.sale_state === "sold_out" || Math.random() < ABANDON / 10) {
      return place.sale_state === "sold_out" ? "sold_out" : "left";
    }
    sleep(place.poll_after_ms / 1000);
    answer = poll(performance, place.place);
  }
  if (place.state !== "admitted") {
    return place.state;
  }
  think(1);
  const wish = { best_available: { count: 1 + Math.floor(Math.random() * 3) } };
  const held = hold(performance, token, place.pass.token, wish, key());
  check(held, { "is held or refused": ({ status }) => status === 201 || status === 409 });
  if (held.status !== 201) {
    return "no_seats";
  }
  const reservation = `${API}/reservations/${held.json("id")}`;
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json", "Idempotency-Key": key() };
  think(1);
  if (Math.random() < ABANDON) {
    const released = http.del(reservation, null, { headers, tags: { name: "release" } });
    check(released, { "is released": ({ status }) => status === 204 });
    return "released";
  }
  const payment = JSON.stringify({ payment: { method: "simulated", token: "tok_ok" } });
  const paid = http.post(`${reservation}/confirm`, payment, { headers, tags: { name: "confirm" } });
  check(paid, { "has a ticket for each seat": ({ status, body }) => status === 200 && String(body).includes('"code"') });
  return "bought";
}
