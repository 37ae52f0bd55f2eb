/** The drawn path, and a call whose node or whose media goes away. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { type ProcessFederation, startProcesses } from "../support/federation.js";
import { Site } from "./site.js";
import { pair, type Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let site: Site<ProcessFederation>;
let ada: Visitor;
let bob: Visitor;

beforeAll(async () => {
  if (!isInstalled) return;
  site = await Site.start(startProcesses(3));
  [ada, bob] = await site.openTwo();
  await pair(ada, bob);
}, 120_000);

afterAll(() => site?.stop());

const ownNode = async () => (await ada.page.locator(".path-tower .path-id").first().textContent()) ?? "";

test.skipIf(!isInstalled)(
  "the path shows the nodes and times of a call, and moves to another node when its own one dies",
  async () => {
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await ada.click("callPath");
    await ada.page.locator(".path-lookup[data-live=true]").waitFor();
    await ada.page.locator(".path-time").waitFor();
    await ada.page.locator(".path-media[data-live=true]").waitFor();
    const before = await ownNode();
    const node = site.federation.nodes.find(({ id }) => id.startsWith(before));
    expect(node).toBeDefined();

    await site.federation.kill(node?.id ?? "");
    const others = site.federation.nodes.filter((one) => one !== node).map(({ id }) => id.slice(0, before.length));
    await expect.poll(async () => others.includes(await ownNode())).toBe(true);
    await bob.untilHeard();
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "a call that loses its media says for how long, and goes on when it is back",
  async () => {
    // Bob's browser drops the connection without a word.
    await bob.page.evaluate(() => {
      for (const peer of (globalThis as unknown as { peers: RTCPeerConnection[] }).peers) peer.close();
    });
    await ada.page.locator(".talk-time", { hasText: /Reconnecting, \d+ s/ }).waitFor();
    await bob.page.reload();
    await Promise.all([ada.talks(), bob.talks()]);
    await ada.untilHeard();
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    expect([...ada.errors, ...bob.errors].filter((text) => !/WebSocket connection|ERR_/.test(text))).toEqual([]);
  },
  150_000,
);
