// A line that waits: people join once, and then poll as often as the server tells them.
//
// Pause the line, or let in fewer than PEOPLE (`line.capacity`): people inside hardly poll.
//
// Environment, beside that of line.js:
//   PEOPLE    people who wait at once (1,000)
//   DURATION  how long they do (60s)
//   P95_MS    bound of the 95th percentile of polls, in ms (200)

import { check, sleep } from "k6";

import { join, nextToken, onSale, poll } from "./sale.js";

export const options = {
  scenarios: {
    waiting: { executor: "constant-vus", vus: Number(__ENV.PEOPLE || 1000), duration: __ENV.DURATION || "60s" },
  },
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    "http_reqs{name:poll}": ["count>0"],
    "http_req_duration{name:poll}": [`p(95)<${__ENV.P95_MS || 200}`],
  },
};

export const setup = onSale;

// Each user stays one person over all iterations.
let place = null;

export default function ({ performance }) {
  const answer = place === null ? join(performance, nextToken()) : poll(performance, place.place);
  const isShown = check(answer, { "shows a place": ({ status }) => status === 200 || status === 201 });
  if (!isShown) {
    sleep(1);
    return;
  }
  const shown = answer.json();
  check(shown, { "never moves back": ({ position }) => place === null || position <= place.position });
  // Somebody whose place is over comes again as another person.
  place = shown.state === "waiting" || shown.state === "admitted" ? shown : null;
  sleep(shown.poll_after_ms / 1000);
}
