"use strict";
// Once a second, the page is fetched again and updated in place, so that focus, scroll position, and typed text survive.
const announcement = document.getElementById("announcement");
let requests = 0, unreachable = false;

// Elements with an id keep it, and what is open or typed in them, wherever they move.
function update(element, fresh) {
  if (element.nodeType !== Node.ELEMENT_NODE) {
    if (element.data !== fresh.data) element.data = fresh.data;
    return;
  }
  for (const { name } of [...element.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) element.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  if (element.nodeName === "TBODY") return updateRows(element, fresh);
  const children = [...fresh.childNodes];
  children.forEach((child, index) => {
    const present = element.childNodes[index];
    if (!present) element.append(child);
    else if (child.id && child.id !== present.id) {
      const same = [...element.children].find(one => one.id === child.id);
      element.insertBefore(same ?? child, present);
      if (same) update(same, child);
    } else if (present.nodeName === child.nodeName) update(present, child);
    else if (present.id) element.insertBefore(child, present);
    else present.replaceWith(child);
  });
  while (element.childNodes.length > children.length) element.lastChild.remove();
}

// Rows are matched by id. While the pointer or the focus is in the table, rows keep their places, so that a click hits the intended row.
// Rows of a table with `data-hold` also stay then, and while any is selected, since a busy sink's messages are replaced all the time.
function updateRows(body, fresh) {
  const rows = [...fresh.rows], ids = new Set(rows.map(row => row.id));
  const inUse = body.matches(":hover, :focus-within");
  const isHeld = body.hasAttribute("data-hold") && (inUse || body.querySelector(":checked") !== null);
  if (isHeld) {
    for (const row of [...body.rows]) if (row.classList.contains("opened") && !ids.has(row.id)) row.remove();
  } else {
    for (const row of [...body.rows]) if (!ids.has(row.id)) row.remove();
  }
  const presentRows = new Map([...body.rows].map(row => [row.id, row]));
  let next = body.rows[0] ?? null;
  for (const row of rows) {
    const present = presentRows.get(row.id);
    const isOpened = row.classList.contains("opened");
    if (present) update(present, row);
    else if (isHeld && isOpened) document.getElementById(row.dataset.after)?.after(row);
    if (isHeld) continue;
    if (present && present === next) next = next.nextElementSibling;
    else if (!inUse) body.insertBefore(present ?? row, next);
    else if (!present) body.append(row);
  }
}

// Parse only the parts: each response has a new nonce, so its <style> would violate this page's policy.
function part(html, start, end) {
  const from = html.indexOf(start), to = html.indexOf(end, from);
  return from < 0 ? null : new DOMParser().parseFromString(html.slice(from, to + end.length), "text/html").body.firstElementChild;
}

function show(html) {
  for (const [selector, start, end] of [["main", "<main>", "</main>"], ["#parts", "<ul class=\"parts\"", "</ul>"]]) {
    const fresh = part(html, start, end);
    if (fresh) update(document.querySelector(selector), fresh);
  }
}

// A response is shown only if no newer request has been sent since.
async function load() {
  const request = ++requests;
  try {
    const response = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" } });
    const html = await response.text();
    if (request === requests) show(html);
    if (unreachable) announcement.textContent = "";
    unreachable = false;
  } catch {
    if (!unreachable) announcement.textContent = "The engine does not respond. This page is from " + new Date().toLocaleTimeString() + ".";
    unreachable = true;
  }
}

async function refresh() {
  if (!document.hidden) await load();
  setTimeout(refresh, 1000);
}

document.addEventListener("submit", async event => {
  const form = event.target, button = event.submitter;
  if (form.method !== "post") return;
  event.preventDefault();
  const label = button.textContent;
  try {
    const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, button)) });
    const html = await response.text();
    const problem = response.ok ? null : part(html, "<main>", "</main>")?.querySelector(".problem");
    if (response.ok) for (const box of document.querySelectorAll("input[type=checkbox]")) box.checked = false;
    announcement.textContent = label + ": " + (response.ok ? "done" : problem ? problem.textContent : "failed, the engine responded " + response.status);
    await load();
  } catch {
    announcement.textContent = label + ": failed, the engine does not respond.";
  }
});

// A link with `data-stay` changes what this page shows, without leaving it.
document.addEventListener("click", event => {
  const link = event.target.closest("a[data-stay]");
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  load();
});
addEventListener("popstate", load);

document.addEventListener("change", event => {
  const all = event.target.closest("input[data-all]");
  if (all) for (const box of document.querySelectorAll(`input[type=checkbox][form="${all.dataset.all}"]`)) box.checked = all.checked;
});

// Keys: / goes to the search, j and k go through the messages, Escape closes the opened message.
document.addEventListener("keydown", event => {
  if (event.target.closest("input:not([type=checkbox]), select, textarea") || event.metaKey || event.ctrlKey || event.altKey) return;
  const find = document.getElementById("find"), close = document.getElementById("close");
  if (event.key === "/" && find) {
    event.preventDefault();
    find.focus();
  } else if (event.key === "Escape" && close) {
    close.click();
  } else if (event.key === "j" || event.key === "k") {
    const links = [...document.querySelectorAll("a[data-message]")];
    const at = links.indexOf(document.activeElement);
    links[event.key === "j" ? at + 1 : Math.max(0, at - 1)]?.focus();
  }
});

setTimeout(refresh, 1000);
