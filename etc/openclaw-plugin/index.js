// cortex_heal for OpenClaw agents: each call starts `healctl heal --agent openclaw ACTION ... -o json` and returns its
// JSON. An argument list, never a shell; every value stands behind `=` or `--`, so that none can become an option. What
// an agent may do by itself is healctl's to decide (approve and execute wait for a person's one-time code).
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";

const TIMEOUT_MS = 130_000; // an execution and its verification; healctl's own limits are below it
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

// action -> [required, optional, (arguments) => argv]. The gateway does not check arguments against the schema: we do.
const ACTIONS = {
  status: [[], [], () => []],
  list_runbooks: [[], [], () => []],
  approve: [["runbook_id"], ["target_id"], (a) => [...(a.target_id === undefined ? [] : [`--target=${a.target_id}`]), "--", a.runbook_id]],
  dry_run: [["runbook_id", "target_id"], [], (a) => [`--target=${a.target_id}`, "--", a.runbook_id]],
  execute: [["runbook_id", "target_id"], ["confirm"], (a) => [`--target=${a.target_id}`, ...(a.confirm === true ? ["--confirm"] : []), "--", a.runbook_id]],
  record_fix: [["incident_id", "description"], [], (a) => [`--description=${a.description}`, "--", a.incident_id]],
  dismiss: [["incident_id", "reason"], [], (a) => [`--reason=${a.reason}`, "--", a.incident_id]],
};

const text = { type: "string" };
const PARAMETERS = {
  type: "object",
  properties: {
    action: { type: "string", enum: Object.keys(ACTIONS) },
    runbook_id: text,
    target_id: text,
    incident_id: text,
    description: text,
    reason: text,
    confirm: { type: "boolean" },
  },
  required: ["action"],
  additionalProperties: false,
};

// The argument list of one call. Throws with what is wrong.
export function argv(given) {
  const { action, ...rest } = given && typeof given === "object" ? given : {};
  if (!Object.hasOwn(ACTIONS, action)) throw new Error(`action is none of ${Object.keys(ACTIONS).join(", ")}`);
  const [required, optional, build] = ACTIONS[action];
  for (const name of required) if (rest[name] === undefined) throw new Error(`${action} needs ${name}`);
  for (const [name, value] of Object.entries(rest)) {
    if (![...required, ...optional].includes(name)) throw new Error(`${action} takes no ${name}`);
    if (typeof value !== (name === "confirm" ? "boolean" : "string")) throw new Error(`${name} has the wrong type`);
    if (typeof value === "string" && value.includes("\0")) throw new Error(`${name} holds a NUL`);
  }
  return ["heal", "--agent", "openclaw", action, "-o", "json", ...build(rest)];
}

function call(program, config, given, signal) {
  return new Promise((resolve) => {
    let words;
    try {
      words = [...(config ? ["-c", config] : []), ...argv(given)];
    } catch (error) {
      return resolve({ error: error.message, code: "usage" });
    }
    const options = { timeout: TIMEOUT_MS, maxBuffer: OUTPUT_BYTES_MAX, shell: false, signal };
    execFile(program, words, options, (error, stdout, stderr) => {
      try {
        resolve(JSON.parse(stdout)); // a refusal is JSON, too
      } catch {
        resolve({ error: `${program} gave no answer: ${stderr.trim() || error?.message || "no output"}`, code: "failed" });
      }
    });
  });
}

// FR-006: what an agent has run well with the exec tool while an incident is open, for `healctl capture report`.
function report(program, config, event) {
  const command = event?.params?.command;
  if (event?.error || typeof command !== "string" || !command) return;
  const words = [...(config ? ["-c", config] : []), "capture", "report", "--source", "openclaw", "-o", "json"];
  const child = execFile(program, words, { timeout: TIMEOUT_MS, shell: false }, () => {});
  child.stdin?.on("error", () => {}); // it ended before it had read: nothing to report to
  child.stdin?.end(command);
}

export default {
  id: "healctl",
  name: "healctl",
  description: "cortex_heal: self-healing of this host by healctl",
  register(api) {
    const { program = "healctl", config, capture = false, flag } = api.pluginConfig ?? {};
    if (capture && flag) {
      const seen = (event) => existsSync(flag) && report(program, config, event);
      api.on("after_tool_call", seen, { matcher: ["exec"] });
    }
    api.registerTool({
      name: "cortex_heal",
      description:
        "Self-healing of this host: status, list_runbooks, dry_run, record_fix and dismiss act at once; approve and " +
        "execute become requests that a person confirms.",
      parameters: PARAMETERS,
      async execute(_id, params, signal) {
        const answer = await call(program, config, params, signal);
        return { content: [{ type: "text", text: JSON.stringify(answer) }], details: answer };
      },
    });
  },
};
