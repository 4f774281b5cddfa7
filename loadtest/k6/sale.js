// What all scripts share: the API, access tokens, and a performance that is on sale.

import { fail } from "k6";
import { SharedArray } from "k6/data";
import exec from "k6/execution";
import http from "k6/http";

export const API = `${__ENV.URL || "http://127.0.0.1:8080"}/api/v1`;

if (!__ENV.TOKENS) {
  throw new Error("TOKENS must name a file of access tokens: usher token mint --count 200000 > tokens.txt");
}
const tokens = new SharedArray("tokens", () => open(__ENV.TOKENS).split("\n").filter((line) => line !== ""));

// The token of the next person of the run; after the last one people come again.
export function nextToken() {
  return tokens[exec.scenario.iterationInTest % tokens.length];
}

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

// The performance that PERFORMANCE names, or the first one on sale.
export function onSale() {
  if (__ENV.PERFORMANCE) {
    return { performance: __ENV.PERFORMANCE };
  }
  for (const concert of all("/concerts")) {
    const open = all(`/concerts/${concert.id}/performances`).find((performance) => performance.sale_state === "open");
    if (open) {
      return { performance: open.id };
    }
  }
  return fail("no performance is on sale");
}

// Joins the line.
export function join(performance, token) {
  return http.post(`${API}/performances/${performance}/queue`, null, {
    headers: { Authorization: `Bearer ${token}` },
    tags: { name: "join" },
  });
}

// Polls a place.
export function poll(performance, place) {
  return http.get(`${API}/performances/${performance}/queue`, {
    headers: { "Usher-Place": place },
    tags: { name: "poll" },
  });
}

// Asks for seats. A refusal because they are taken is an answer like any other.
export function hold(performance, token, pass, wish, key) {
  return http.post(`${API}/performances/${performance}/reservations`, JSON.stringify(wish), {
    headers: {
      Authorization: `Bearer ${token}`,
      "Content-Type": "application/json",
      "Idempotency-Key": key,
      "Usher-Pass": pass,
    },
    responseCallback: http.expectedStatuses(201, 409),
    tags: { name: "hold" },
  });
}
