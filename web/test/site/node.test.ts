/** The page as a node serves it. */
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildPage } from "../../tools/page.mjs";
import { hasChromium, launchChromium } from "../examples/chromium.js";
import { type Federation, startFederation } from "../support/federation.js";
import { pair, Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let federation: Federation;
let browser: Browser;

beforeAll(async () => {
  if (!isInstalled) return;
  const { dist } = await buildPage();
  const page = join(dist, "chappe.html");
  [federation, browser] = await Promise.all([startFederation(2, [`client.page=${page}`]), launchChromium()]);
}, 90_000);

afterAll(async () => {
  await browser?.close();
  await federation?.stop();
});

test.skipIf(!isInstalled)(
  "two people who open a node's address find its federation, and talk",
  async () => {
    const [first, second] = federation.nodes.map(({ clientUrl }) => `${clientUrl.replace(/^ws/, "http")}/`);
    const ada = await Visitor.open(browser, "Ada", `${first}call`);
    // From the page for people.
    const bob = await Visitor.open(browser, "Bob", second ?? "");
    await bob.page.getByRole("link", { name: "Open the page for calls" }).click();
    await Promise.all([ada.start(), bob.start()]);
    await pair(ada, bob);
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    expect([...ada.errors, ...bob.errors]).toEqual([]);
    // The node's other pages and its WebSocket are as before.
    expect((await fetch(`${first}healthz`)).status).toBe(200);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  150_000,
);
