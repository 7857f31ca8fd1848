"use strict";
// What both pages use: text that is never markup, calls to the API, messages that go away, and the bar at the top.

const MAX_ENTRIES = 10000;       // on the page; the inbox stores more
const PART_ENTRIES = 50;         // per part of the list; the browser skips the layout of parts that are out of sight
const ENTRY_REM = 3.5;           // height of an entry, as in page.css
const SEARCHED_CHARACTERS = 16 << 10; // of a body
const FULL_BODY_BYTES = 1 << 20; // longer bodies are previewed
const PREVIEW_BYTES = 64 << 10;
const MESSAGE_MS = 4000, ERROR_MS = 10000;
const PARTS_MS = 5000;
const at = (id) => document.getElementById(id);

// Insert every value into the page with `text` or `element`, never as markup.
function text(node, value) { node.textContent = value; return node; }
function element(tag, value, className) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (value !== undefined) text(node, value);
  return node;
}
function button(label, onClick, className) {
  const node = element("button", label, className);
  node.type = "button";
  node.addEventListener("click", onClick);
  return node;
}
function number(value, noun) { return `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`; }

class Unreachable extends Error {}
async function call(method, path, payload) {
  const options = { method, headers: {} };
  if (payload !== undefined) { options.body = JSON.stringify(payload); options.headers["Content-Type"] = "application/json"; }
  let response;
  try { response = await fetch(path, options); } catch { throw new Unreachable("The inspector does not answer."); }
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

let messageTimer;
function say(message, isBad = false) {
  clearTimeout(messageTimer);
  text(at("toast"), message).className = isBad ? "bad" : "";
  at("toast").hidden = false;
  messageTimer = setTimeout(() => { at("toast").hidden = true; text(at("toast"), ""); }, isBad ? ERROR_MS : MESSAGE_MS);
}
// Run an action of a button, and show its error.
async function attempt(action) {
  try { await action(); } catch (error) { say(error.message, true); }
}
async function copy(value, what) {
  if (!navigator.clipboard) throw new Error("The browser allows copying only at http://127.0.0.1 or https://.");
  await navigator.clipboard.writeText(value);
  say(`${what} copied`);
}

async function showParts() {
  if (document.hidden) return;
  let parts;
  try {
    const stack = await call("GET", "/api/stack");
    parts = stack.parts;
    at("console").hidden = !stack.console;
  } catch (error) {
    if (!(error instanceof Unreachable)) return;   // for example without access, which the page says elsewhere
    parts = [{ name: "inspector", state: "down" }];
  }
  at("parts").replaceChildren(...parts.map(({ name, state }) => element("li", `${name} ${state}`, `state ${state === "running" ? "good" : "bad"}`)));
}

function isTyping(event) { return event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey || at("keys").open; }
function startBar() {
  at("showKeys").addEventListener("click", () => at("keys").showModal());
  addEventListener("keydown", (event) => {
    if (event.key === "?" && !isTyping(event)) { event.preventDefault(); at("keys").showModal(); }
  });
  showParts();
  setInterval(showParts, PARTS_MS);
}
