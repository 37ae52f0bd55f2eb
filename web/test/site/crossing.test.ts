/** Two people who call each other at once. */
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildPage, servePage } from "../../tools/page.mjs";
import { hasChromium, launchChromium } from "../examples/chromium.js";
import { type Federation, startFederation } from "../support/federation.js";
import { fragmentOf, pair, Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let federation: Federation;
let site: Awaited<ReturnType<typeof servePage>>;
let browser: Browser;

beforeAll(async () => {
  if (!isInstalled) return;
  await buildPage();
  [federation, site, browser] = await Promise.all([startFederation(2), servePage(), launchChromium()]);
}, 90_000);

afterAll(async () => {
  await browser?.close();
  site?.close();
  await federation?.stop();
});

test.skipIf(!isInstalled)(
  "two people who call each other at once talk, and nobody has to answer",
  async () => {
    const url = `${site.url}${fragmentOf(federation)}`;
    const [ada, bob] = await Promise.all([Visitor.open(browser, "Ada", url), Visitor.open(browser, "Bob", url)]);
    await Promise.all([ada.start(), bob.start()]);
    await pair(ada, bob);
    await Promise.all([ada.openContact("Bob"), bob.openContact("Ada")]);
    await Promise.all([ada.click("contactCall"), bob.click("contactCall")]);
    await Promise.all([ada.talks(), bob.talks()]);
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    expect([...ada.errors, ...bob.errors]).toEqual([]);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  90_000,
);
