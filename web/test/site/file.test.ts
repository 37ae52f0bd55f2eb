/** `chappe.html`: the whole client in one file, opened from a disk. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildPage } from "../../tools/page.mjs";
import { hasChromium, launchChromium } from "../examples/chromium.js";
import { type Federation, startFederation } from "../support/federation.js";
import { pair, Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let federation: Federation;
let built: Awaited<ReturnType<typeof buildPage>>;
let browser: Browser;
let url: string;

beforeAll(async () => {
  if (!isInstalled) return;
  [federation, built, browser] = await Promise.all([startFederation(2), buildPage(), launchChromium()]);
  // Nodes by hand, without a registry and without TLS.
  const nodes = federation.nodes.map(({ clientUrl, id }) => ["node", `${clientUrl}#${id}`]);
  url = `${pathToFileURL(join(built.dist, "chappe.html"))}#${new URLSearchParams(nodes)}&private`;
}, 90_000);

afterAll(async () => {
  await browser?.close();
  await federation?.stop();
});

test.skipIf(!isInstalled)(
  "two people pair and talk by a file and plain nodes, and nothing else is asked",
  async () => {
    const [ada, bob] = await Promise.all([Visitor.open(browser, "Ada", url), Visitor.open(browser, "Bob", url)]);
    await Promise.all([ada.start(), bob.start()]);
    await pair(ada, bob);
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await Promise.all([ada, bob].map((one) => one.untilHeard()));
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    const known = federation.nodes.map(({ clientUrl }) => new URL(clientUrl).host);
    const strange = [...ada.requests, ...bob.requests].filter(
      (text) => !/^(file|data|blob):/.test(text) && !known.includes(new URL(text).host),
    );
    expect(strange).toEqual([]);
    expect([...ada.errors, ...bob.errors]).toEqual([]);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  150_000,
);

test.skipIf(!isInstalled)(
  "the page shows the hash of its script, which the build has printed",
  async () => {
    const ada = await Visitor.open(browser, "Ada", url);
    await ada.start();
    await ada.click("settingsTitle");
    await ada.page.getByText(built.scriptHash).waitFor();
    const file = readFileSync(join(built.dist, "chappe.html"));
    expect(createHash("sha256").update(file).digest("hex")).toBe(built.fileHash);
    expect(readFileSync(join(built.dist, "chappe.html.sha256"), "utf8")).toBe(`${built.fileHash}  chappe.html\n`);
    await ada.context.close();
  },
  120_000,
);

test.skipIf(!isInstalled)("a script that somebody brings into the page does not run", async () => {
  const ada = await Visitor.open(browser, "Ada", url);
  await ada.sees("welcomeTitle");
  const hasRun = await ada.page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "globalThis.hasRun = true";
    document.body.append(script);
    return "hasRun" in globalThis;
  });
  expect(hasRun).toBe(false);
  expect(ada.errors.join()).toContain("Content Security Policy");
  await ada.context.close();
});
