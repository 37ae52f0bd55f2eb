/** `chappe up --demo`: the command builds the page, serves it, and names an address for each of two people. */
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { hasChromium, launchChromium } from "../examples/chromium.js";
import { Command } from "../support/federation.js";
import { pair, Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let up: Command;
let browser: Browser;

beforeAll(async () => {
  if (!isInstalled) return;
  up = new Command(["up", "--json", "--nodes", "2", "--demo"]);
  browser = await launchChromium();
}, 60_000);

afterAll(async () => {
  await browser?.close();
  await up?.stop();
});

test.skipIf(!isInstalled)(
  "two people in two tabs pair and talk",
  async () => {
    const { urls } = await up.line("the page", (line) => line.event === "page");
    const [first, second] = urls as [string, string];
    const ada = await Visitor.open(browser, "Ada", first);
    // In the same browser: the addresses name different profiles.
    const bob = await Visitor.openIn(ada.context, "Bob", second);
    await Promise.all([ada.start(), bob.start()]);
    await pair(ada, bob);
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    expect([...ada.errors, ...bob.errors]).toEqual([]);
  },
  150_000,
);
