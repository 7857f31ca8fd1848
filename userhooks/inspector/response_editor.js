// An editor for the rules of a response script, with a card for each rule. Presets fill the editor, and Apply calls `set` with its script.
// `set` throws if the script is invalid.

function rulesEditor(set) {
  const conditions = { always: "always", first: "the first", every: "every nth", percent: "percent" };
  const effects = { status: "answer", hang: "never answer", drip: "answer one byte per second", reset: "reset the connection", redirect: "redirect to the inbox", oversized: "answer 1 MB" };
  let active = "[]";           // the inbox's script as JSON

  function choice(label, options, value) {
    const select = element("select");
    select.setAttribute("aria-label", label);
    for (const [name, title] of Object.entries(options)) {
      const option = element("option", title);
      option.value = name;
      select.append(option);
    }
    select.value = value;
    return select;
  }
  function figure(label, value) {
    const input = element("input");
    input.type = "number";
    input.step = "any";
    input.setAttribute("aria-label", label);
    input.value = value ?? "";
    return input;
  }
  function area(label, value, placeholder) {
    const node = element("textarea");
    node.spellcheck = false;
    node.placeholder = placeholder;
    node.value = value;
    const wrapper = element("label", label);
    wrapper.append(node);
    return [wrapper, node];
  }

  function card(rule) {
    const node = element("div", undefined, "rule");
    const kind = ["first", "every", "percent"].find((name) => name in rule) ?? "always";
    const controls = {
      condition: choice("condition", conditions, kind), many: figure("how many", rule[kind]), seed: figure("seed", rule.seed ?? 1),
      effect: choice("response", effects, rule.effect ?? "status"), status: figure("status", rule.status ?? 200),
      delay: figure("delay in seconds", rule.delay ?? 0), wait: figure("Retry-After in seconds", rule.retry_after),
    };
    const group = (...parts) => { const span = element("span"); span.append(...parts); return span; };
    const many = group(controls.many), seed = group("seed ", controls.seed);
    const answer = group(controls.status, " after ", controls.delay, " s, Retry-After ", controls.wait, " s");
    const extras = element("details", undefined, "extras"), areas = element("div");
    const lines = Object.entries(rule.headers ?? {}).map(([name, value]) => `${name}: ${value}`).join("\n");
    const [headersLabel, headers] = area("Headers, one per line", lines, "Content-Type: application/json");
    const [bodyLabel, body] = area("Body, up to 64 kB", rule.body ?? "", '{"ok": true}');
    areas.append(headersLabel, bodyLabel);
    extras.append(element("summary", "Headers and body"), areas);
    extras.open = Boolean(rule.headers || rule.body);
    node.append(controls.condition, many, seed, controls.effect, answer, button("Remove", () => { node.remove(); update(); }), extras);
    node.controls = { ...controls, headers, body };
    node.fit = () => {
      many.hidden = controls.condition.value === "always";
      seed.hidden = controls.condition.value !== "percent";
      answer.hidden = extras.hidden = controls.effect.value !== "status";
    };
    node.addEventListener("input", () => { node.fit(); update(); });
    node.fit();
    return node;
  }

  // Read headers from lines like `Name: value`. The server checks names and values.
  function headersOf(lines, rule) {
    const headers = {};
    for (const [n, line] of lines.split("\n").entries()) {
      if (!line.trim()) continue;
      const colon = line.indexOf(":");
      const name = line.slice(0, colon).trim();
      if (colon < 1) throw new Error(`Line ${n + 1} of the headers of rule ${rule} has no colon. Write it like Content-Type: text/plain.`);
      if (name in headers) throw new Error(`Rule ${rule} sets the header ${name} twice. Remove one of them.`);
      headers[name] = line.slice(colon + 1).trim();
    }
    return headers;
  }
  // Return the rules in the editor, with their fields in the order in which the server returns them.
  function script() {
    return [...at("rules").querySelectorAll(".rule")].map(({ controls }, n) => {
      const rule = {}, value = (control) => control.value === "" ? null : Number(control.value);
      if (controls.condition.value !== "always") rule[controls.condition.value] = value(controls.many);
      if (controls.condition.value === "percent") rule.seed = value(controls.seed);
      if (controls.effect.value !== "status") return { ...rule, effect: controls.effect.value };
      rule.status = value(controls.status);
      if (value(controls.delay)) rule.delay = value(controls.delay);
      if (controls.wait.value !== "") rule.retry_after = value(controls.wait);
      const headers = headersOf(controls.headers.value, n + 1);
      if (Object.keys(headers).length) rule.headers = headers;
      if (controls.body.value) rule.body = controls.body.value;
      return rule;
    });
  }

  // Return the rules in the editor as JSON, or null if headers cannot be read, which Apply explains.
  function edited() { try { return JSON.stringify(script()); } catch { return null; } }

  function show(json) {
    at("rules").replaceChildren(...JSON.parse(json).map(card));
    problem("");
    update();
  }
  function problem(message) { text(at("ruleProblem"), message).hidden = !message; }
  function update() {
    if (!at("rules").querySelector(".rule")) at("rules").replaceChildren(element("p", "No rules: every request is answered 200 immediately.", "soft"));
    const rules = edited(), isActive = rules === active;
    text(at("python"), rules === null ? "fix the headers first" : rules === "[]" ? "inbox.respond()" : `inbox.respond(${rules})`);
    for (const preset of at("ready").querySelectorAll("button")) preset.setAttribute("aria-pressed", String(preset.dataset.rules === rules));
    text(at("applied"), isActive ? "The rules below are active" : "The rules below are not applied yet").className = `badge ${isActive ? "good" : "warn"}`;
    at("discard").hidden = isActive;
    at("setRules").disabled = isActive;
  }
  // Follow the inbox's response, unless the editor contains changes.
  function activate(response) {
    text(at("active"), response.words.join("; "));
    const json = JSON.stringify(response.script);
    if (json === active) return;
    const isUntouched = edited() === active;
    active = json;
    if (isUntouched) show(json); else update();
  }

  at("addRule").addEventListener("click", () => {
    if (!at("rules").querySelector(".rule")) at("rules").replaceChildren();
    at("rules").append(card({ first: 1, status: 500 }));
    update();
  });
  at("setRules").addEventListener("click", async () => {
    problem("");
    try {
      activate(await set(script()));
      say("Answers applied");
    } catch (error) { problem(error.message); }
  });
  at("discard").addEventListener("click", () => show(active));
  at("ready").addEventListener("click", (event) => { if (event.target.dataset.rules) show(event.target.dataset.rules); });
  at("openEditor").addEventListener("click", () => {
    at("editor").hidden = !at("editor").hidden;
    at("openEditor").setAttribute("aria-expanded", String(!at("editor").hidden));
  });
  show(active);
  return { activate };
}
