// A request in words: for the list, for its details, and as a command for a shell.

// A command for a POSIX shell that sends the request again; everything from the request is quoted.
function curlOf(request, origin) {
  const quoted = (value) => `'${value.replaceAll("'", "'\\''")}'`;
  const connectionHeaders = new Set(["host", "content-length", "connection", "transfer-encoding", "expect", "keep-alive", "upgrade"]);
  const parts = ["curl", "--globoff", "--path-as-is", "-X", quoted(request.method)];
  const sent = request.headers.filter(([name]) => !connectionHeaders.has(name));
  for (const [name, value] of sent) parts.push("-H", quoted(value ? `${name}: ${value}` : `${name};`));
  for (const name of ["Accept", "User-Agent", "Content-Type"]) {
    if (!sent.some(([other]) => other === name.toLowerCase())) parts.push("-H", quoted(`${name}:`));   // curl would add its own header
  }
  parts.push(quoted(`${origin}${request.path}${request.query ? `?${request.query}` : ""}`));
  if (!request.size) return parts.join(" ");
  if (request.body_encoding === "utf-8" && request.size < 65536 && !request.body.includes("\0")) return [...parts, "--data-raw", quoted(request.body)].join(" ");
  if (request.size > FULL_BODY_BYTES) throw new Error("The body is too large for a command line. Use Download all.");
  const bytes = request.body_encoding === "base64" ? request.body : btoa(String.fromCharCode(...new TextEncoder().encode(request.body)));
  return `base64 -d <<'END' | ${[...parts, "--data-binary", "@-"].join(" ")}\n${bytes.replace(/.{76}/g, "$&\n")}\nEND`;
}

function named(judgement) {
  const names = { foreign: "another user's row", duplicate_of: "duplicate", late: "late", out_of_order_with: "out of order", body: "body mismatch", unread: "not judged", secret: "secret" };
  return `${names[judgement.kind] ?? judgement.kind}${judgement.seq === undefined ? "" : ` of #${judgement.seq}`}`.replace("out of order of", "out of order with");
}

function secretKind(request) { return { ok: "good", wrong: "bad", missing: "bad" }[request.secret] ?? "idle"; }

function answered(request) {
  if (request.response_status === null) return request.note ? "not answered" : "not answered yet";
  const rule = request.response.indexOf(", rule ");
  return `answered ${request.response_status}${rule < 0 ? "" : ` by ${request.response.slice(rule + 2)}`}`;
}

// The path and query as requested, without the part that is the same for the whole inbox.
function pathOf(request) {
  const path = `/${request.path.split("/").slice(3).join("/")}`;
  return request.query ? `${path}?${request.query}` : path;
}

function clock(time) { return `${time.toTimeString().slice(0, 8)}.${String(time.getMilliseconds()).padStart(3, "0")}`; }
// Format a time in the browser's time zone: 2026-01-31 14:05:09.123 UTC+01:00.
function zoned(time) {
  const minutes = -time.getTimezoneOffset(), two = (value) => String(value).padStart(2, "0");
  const offset = `${minutes < 0 ? "−" : "+"}${two(Math.trunc(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${clock(time)} UTC${minutes ? offset : ""}`;
}
function duration(ms) {
  if (ms < 1000) return `${Number(ms.toPrecision(2))} ms`;
  for (const [unit, length] of [["days", 86400e3], ["h", 3600e3], ["min", 60e3]]) if (ms >= 2 * length) return `${(ms / length).toFixed(1)} ${unit}`;
  return `${(ms / 1000).toFixed(1)} s`;
}

function answerOf(request) {
  if (request.response_status === null) return request.note ? ["none", "warn"] : ["waiting", "warn"];
  return [String(request.response_status), request.response_status < 300 ? "good" : "bad"];
}

// Describe a body in one line: the rows of its Sequin messages, or its beginning.
function summary(request) {
  const plain = request.body_encoding === "base64" ? "(binary)" : request.size ? request.body.slice(0, 120) : "(empty body)";
  if (request.truncated || !request.body.startsWith("{")) return plain;
  let body;
  try { body = JSON.parse(request.body); } catch { return plain; }
  const messages = Array.isArray(body.data) ? body.data : [body];
  if (!messages.length || !messages.every((message) => message?.metadata && message.action)) return plain;
  const first = messages[0];
  const user = first.record?.user_id === undefined ? "" : ` of user ${first.record.user_id}`;
  const row = `row ${[first.metadata.record_pks].flat().join(",")}`;
  return `${first.action} ${row}${user}${messages.length > 1 ? ` and ${messages.length - 1} more` : ""} in ${first.metadata.table_name}`;
}

function hexadecimal(bytes) {
  const lines = [];
  for (let start = 0; start < Math.min(bytes.length, PREVIEW_BYTES); start += 16) {
    const part = bytes.slice(start, start + 16);
    const hex = [...part].map((byte) => byte.charCodeAt(0).toString(16).padStart(2, "0")).join(" ");
    lines.push(`${start.toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${part.replace(/[^\x20-\x7e]/g, ".")}`);
  }
  return lines.join("\n");
}

// A word for a POSIX shell, quoted if necessary.
function shellWord(value) { return /^[\w@%+=:,./-]+$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`; }
