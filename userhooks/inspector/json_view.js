// A JSON text as a tree of folds. Tokens stay as they were sent: JSON.parse would round long numbers and drop repeated keys.
// Only what is open is built, so that a body of 1 MB with deep or long parts appears at once.

const JSON_TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s"{}[\],:]+/g;
const OPEN_DEPTH = 6;            // levels that are open at first
const OPEN_NODES = 600;          // values after which everything else is folded at first
const STEP_ITEMS = 100;          // items of an object or array that are shown at a time
const STRING_CHARACTERS = 2000;  // of a string; the rest is shown on request

// Return the tree of a JSON text, or null if it is not valid JSON. A node has a `token`, or `open` ("{" or "[") and `items`; in an object also a `key`.
function jsonTree(body) {
  try { JSON.parse(body); } catch { return null; }
  const root = { items: [] }, stack = [root];
  let key;
  for (const [token] of body.matchAll(JSON_TOKEN)) {
    const items = stack.at(-1).items;
    if (token === "}" || token === "]") stack.pop();
    else if (token === ":") key = items.pop().token;
    else if (token !== ",") {
      const node = token === "{" || token === "[" ? { key, open: token, items: [] } : { key, token };
      items.push(node);
      key = undefined;
      if (node.open) stack.push(node);
    }
  }
  return root.items[0];
}

function jsonView(tree) { return jsonNode(tree, "", 0, { left: OPEN_NODES }); }

function jsonNode(node, comma, depth, budget) {
  budget.left--;
  const label = node.key === undefined ? [] : [element("span", node.key, "json-key"), ": "];
  if (!node.items?.length) {
    const line = element("div", undefined, "json-line");
    line.append(...label, ...(node.open ? [node.open === "{" ? "{}" : "[]"] : jsonToken(node.token)), comma);
    return line;
  }
  const close = node.open === "{" ? "}" : "]";
  const fold = element("details", undefined, "json-fold"), head = element("summary"), children = element("div", undefined, "json-children");
  head.append(...label, node.open, element("span", ` ${number(node.items.length, node.open === "{" ? "key" : "item")} ${close}${comma}`, "json-rest"));
  fold.append(head, children, element("div", `${close}${comma}`, "json-line"));
  if (depth < OPEN_DEPTH && budget.left > 0) { fold.open = true; addItems(children, node, 0, depth + 1, budget); }
  // Opened by hand, a fold shows one level.
  else fold.addEventListener("toggle", () => addItems(children, node, 0, OPEN_DEPTH, budget), { once: true });
  return fold;
}

function addItems(children, node, start, depth, budget) {
  const end = Math.min(start + STEP_ITEMS, node.items.length);
  for (let n = start; n < end; n++) children.append(jsonNode(node.items[n], n + 1 < node.items.length ? "," : "", depth, budget));
  const left = node.items.length - end;
  if (!left) return;
  children.append(button(`Show ${Math.min(STEP_ITEMS, left)} more of ${left.toLocaleString("en")}`, (event) => {
    event.target.remove();
    addItems(children, node, end, OPEN_DEPTH, budget);
  }, "json-more"));
}

function jsonToken(token) {
  const kind = token[0] === '"' ? "string" : /^[-\d]/.test(token) ? "number" : "word";
  const value = element("span", token.slice(0, STRING_CHARACTERS), `json-${kind}`);
  if (token.length <= STRING_CHARACTERS) return [value];
  return [value, button(`… show all ${token.length.toLocaleString("en")} characters`, (event) => { text(value, token); event.target.remove(); }, "json-more")];
}
