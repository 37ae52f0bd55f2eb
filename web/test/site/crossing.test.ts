/** Two people who call each other at once. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { pair } from "./visitor.js";

const isInstalled = hasChromium();
let site: Site;

beforeAll(async () => {
  if (!isInstalled) return;
  site = await Site.start(startFederation(2));
}, 90_000);

afterAll(() => site?.stop());

test.skipIf(!isInstalled)(
  "two people who call each other at once talk, and nobody has to answer",
  async () => {
    const [ada, bob] = await site.openTwo();
    await pair(ada, bob);
    await Promise.all([ada.openContact("Bob"), bob.openContact("Ada")]);
    await Promise.all([ada.click("contactCall"), bob.click("contactCall")]);
    await Promise.all([ada.talks(), bob.talks()]);
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    expect([...ada.errors, ...bob.errors]).toEqual([]);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  150_000,
);
