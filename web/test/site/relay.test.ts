/** Calls over the relay of a node: the other side sees no address, and the page says so. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import type { Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let site: Site;
let ada: Visitor;
let bob: Visitor;

beforeAll(async () => {
  if (!isInstalled) return;
  // One node: a relay does not relay to other ports of its own address.
  const relay = ['turn.listen=["127.0.0.1:0"]', 'turn.allowed_peers=["127.0.0.0/8"]'];
  site = await Site.start(startFederation(1, relay));
  [ada, bob] = await site.openTwo();
}, 90_000);

afterAll(() => site?.stop());

test.skipIf(!isInstalled)(
  "a call uses the relay without a question, and shows no address",
  async () => {
    await bob.enter(await ada.showCode());
    await Promise.all([ada.sees("wordsTitle"), bob.sees("wordsTitle")]);
    await Promise.all([ada.click("wordsSame"), bob.click("wordsSame")]);
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await bob.untilHeard();
    await ada.seesText("seenNothing", { name: "Bob" });
    await bob.seesText("seenNothing", { name: "Ada" });
    await ada.click("callPath");
    const media = ada.page.locator(".path text", { hasText: ada.text("pathRelayed") });
    await media.waitFor();
    const texts = `${await ada.page.locator("body").textContent()} ${await bob.page.locator("body").textContent()}`;
    expect(texts).not.toMatch(/\d+\.\d+\.\d+\.\d+/);
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    expect([...ada.errors, ...bob.errors]).toEqual([]);
  },
  150_000,
);

test.skipIf(!isInstalled)(
  "the diagnosis tries the relay, and listens to the microphone",
  async () => {
    await ada.click("settingsTitle");
    await ada.click("settingsWhy");
    await ada.click("diagnosisRun");
    await ada.button("diagnosisRun").waitFor();
    const verdict = (check: string) => ada.page.locator(`[data-check=${check}]`).getAttribute("data-verdict");
    expect(await verdict("node")).toBe("good");
    expect(await verdict("turnUdp")).toBe("good");
    expect(await verdict("turnTcp")).toBe("good");
    expect(await verdict("microphone")).toBe("good");
  },
  120_000,
);
