/** A capture of everything that two pages send to nodes: sealed, and no lookup before somebody calls. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Browser, installedBrowsers, launch, servePage, untilRinging, untilState } from "./support/browsers.js";
import { type Captured, canCapture, startCapture } from "./support/capture.js";
import { type Federation, startFederation } from "./support/federation.js";

const installed = installedBrowsers();
const isPossible = installed.length > 0 && canCapture();

/** How long nobody does anything, in milliseconds: what polls would show itself. */
const IDLE = 4_000;

let federation: Federation;
let page: Awaited<ReturnType<typeof servePage>>;
const browsers: Browser[] = [];

beforeAll(async () => {
  if (!isPossible) return;
  [federation, page] = await Promise.all([startFederation(3), servePage()]);
  for (const name of installed) browsers.push(await launch(name, page.url));
}, 120_000);

afterAll(async () => {
  if (!isPossible) return;
  for (const browser of browsers) await browser.close();
  page.close();
  await federation.stop();
});

function typesOf(texts: Captured["texts"]): string[] {
  return texts.map(({ text }) => String((JSON.parse(text) as { type?: unknown }).type));
}

test.skipIf(!isPossible)(
  "no description, candidate or name is readable on the way to a node",
  async () => {
    const ports = federation.nodes.map(({ clientUrl }) => Number(new URL(clientUrl).port));
    const options = { registries: [federation.registry], roots: [federation.root], isPrivate: true };
    const [a, b] = [await (browsers[0] as Browser).open(), await (browsers.at(-1) as Browser).open()];

    const capture = await startCapture(ports);
    const first = await a.run("start", { ...options, name: "Augusta Ada King" });
    await b.run("start", { ...options, name: "Robert Boyle", avoid: [first.node as string] });
    const { code } = await b.run("showCode", false);
    const { contact } = await a.run("pair", code);
    await b.run("paired");
    await new Promise((resolve) => setTimeout(resolve, IDLE));
    const clickedAt = Date.now();
    await a.run("call", contact);
    await untilRinging(b);
    await b.run("accept");
    for (const tab of [a, b]) await untilState(tab, "connected");
    await a.run("restart");
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    await a.run("hangUp");
    await untilState(b, "ended");
    const { texts, heads } = await capture.stop();
    const idle = texts.filter(({ at }) => at < clickedAt);
    const call = texts.filter(({ at }) => at >= clickedAt);
    await Promise.all([a.run("close"), b.run("close")]);

    // The capture has seen what it is for.
    expect(typesOf(idle)).toEqual(
      expect.arrayContaining(["prove", "register", "pair_request", "pair_response", "attach"]),
    );
    expect(typesOf(call)).toEqual(
      expect.arrayContaining(["resolve", "call_offer", "call_answer", "call_ice", "call_hangup", "get_ice_servers"]),
    );
    expect(typesOf(idle), "no lookup without a click").not.toContain("resolve");

    const secret = code.split("-")[1] as string;
    const clear = ["v=0", "m=audio", "candidate:", "ice-ufrag", "Augusta", "Robert", secret];
    for (const text of [...texts.map((sent) => sent.text), ...heads]) {
      // What is encoded in a text is looked into, too.
      const decoded = (text.match(/[A-Za-z0-9_-]{16,}/g) ?? []).map((part) =>
        Buffer.from(part, "base64url").toString("latin1"),
      );
      for (const readable of [text, ...decoded]) {
        for (const word of clear) expect(readable.includes(word), `${word} in ${text.slice(0, 80)}`).toBe(false);
      }
    }
    const payloads = call
      .map(({ text }) => JSON.parse(text) as { type: string; payload?: string })
      .filter(({ type }) => type === "call_offer" || type === "call_answer");
    expect(new Set(payloads.map(({ payload }) => payload?.length)).size, "offers and answers have one length").toBe(1);
  },
  150_000,
);
