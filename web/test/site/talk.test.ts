/** Two people pair, call and talk in the page. */
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { pair, SILENT, type Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let site: Site;
let ada: Visitor;
let bob: Visitor;

beforeAll(async () => {
  if (!isInstalled) return;
  site = await Site.start(startFederation(3));
  [ada, bob] = await site.openTwo();
}, 90_000);

afterAll(() => site?.stop());

afterEach(() => {
  expect([...(ada?.errors ?? []), ...(bob?.errors ?? [])]).toEqual([]);
});

test.skipIf(!isInstalled)(
  "two people pair by a code, and see the same words",
  async () => {
    await bob.enter(await ada.showCode());
    const words = await ada.words();
    expect(words).toHaveLength(4);
    expect(await bob.words()).toEqual(words);
    await ada.click("wordsSame");
    await bob.click("wordsLater");
    await Promise.all([ada.seesHeading("Bob"), bob.seesHeading("Ada")]);
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "whether a contact is reachable is asked when the contact is opened",
  async () => {
    // The other side attaches its new inbox some seconds after the pairing.
    await ada.seesText("contactReachable");
  },
  120_000,
);

test.skipIf(!isInstalled)("without a relay, a call waits for leave to show the address", async () => {
  await ada.call("Bob");
  await ada.sees("end_no_relay");
  await ada.click("endAllowDirect");
  await bob.click("callAccept");
  await bob.seesText("callNeedsDirect", { name: "Ada" });
  await bob.click("callAcceptDirect");
  await Promise.all([ada.talks(), bob.talks()]);
  await ada.click("callHangUp");
  await bob.sees("end_peer_hung_up");
  await bob.click("close");
  // That was for one call. The others are allowed to.
  await bob.openContact("Ada");
  expect(await bob.page.getByRole("switch", { name: bob.text("contactRelay") }).isChecked()).toBe(true);
  await bob.allowDirect("Ada");
});

test.skipIf(!isInstalled)(
  "they hear each other, mute and hang up",
  async () => {
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await Promise.all([ada, bob].map((one) => one.untilHeard()));
    await Promise.all(
      [ada, bob].map((one) => expect.poll(async () => (await one.hears(1_000)).played).toBeGreaterThan(0.5)),
    );
    // Bob had put off comparing the words: the first call asks for them.
    expect(await bob.words()).toHaveLength(4);
    await bob.click("wordsSame");

    await ada.click("callMute");
    await ada.seesText("callMuted");
    await bob.seesText("callRemoteSilent", { name: "Ada" });
    await expect.poll(async () => (await bob.hears(2_000)).energy).toBeLessThan(SILENT);
    await ada.click("callUnmute");
    await bob.untilHeard();

    await bob.click("callHangUp");
    await ada.sees("end_peer_hung_up");
    await ada.click("close");
  },
  150_000,
);

test.skipIf(!isInstalled)(
  "a camera is seen while it is on, and leaves no frozen picture",
  async () => {
    await ada.call("Bob");
    // By keyboard: the heading has the focus, and «decline», «with video» and «answer» follow.
    await bob.button("callAccept").waitFor();
    for (let step = 0; step < 3; step++) await bob.page.keyboard.press("Tab");
    await bob.page.keyboard.press("Enter");
    await bob.talks();
    await ada.click("callCameraOn");
    await ada.page.getByLabel(ada.text("callPreview")).waitFor();
    const picture = bob.page.getByLabel(bob.text("callRemoteCamera", { name: "Ada" }));
    await picture.waitFor();
    await expect.poll(async () => (await bob.hears(1_000)).frames).toBeGreaterThan(5);
    await bob.click("callPip");
    await expect.poll(() => bob.page.evaluate(smallWindow)).toBe(bob.text("callRemoteCamera", { name: "Ada" }));
    await ada.click("callCameraOff");
    await picture.waitFor({ state: "detached" });
    // The small window closes with its picture.
    await expect.poll(() => bob.page.evaluate(smallWindow)).toBeUndefined();
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "a screen is shown while it is shared",
  async () => {
    await ada.click("callScreenOn");
    await ada.seesText("callScreenShared");
    const screen = bob.page.getByLabel(bob.text("callRemoteScreen", { name: "Ada" }));
    await screen.waitFor();
    await ada.click("callScreenOff");
    await screen.waitFor({ state: "detached" });
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "the call says what the other side sees, from the path in use",
  async () => {
    const shown = ada.page.locator(".seen[data-seen=true]");
    await shown.waitFor();
    expect(await shown.textContent()).toMatch(/\d+\.\d+\.\d+\.\d+|:/);
    await ada.click("callPath");
    const path = ada.page.getByRole("img", { name: /nodes? / });
    await expect.poll(() => path.getAttribute("aria-label")).not.toContain("…");
    await ada.click("callHangUp");
    await bob.sees("end_peer_hung_up");
    await bob.click("close");
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "a page that is loaded again comes back into its call",
  async () => {
    await bob.call("Ada");
    await ada.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await bob.page.reload();
    await bob.talks();
    await ada.untilHeard();
    // Muted, it comes back muted.
    await bob.click("callMute");
    await bob.page.reload();
    await bob.talks();
    await bob.seesText("callMuted");
    await ada.seesText("callRemoteSilent", { name: "Bob" });
    expect((await ada.hears(2_000)).energy).toBeLessThan(SILENT);
    await bob.click("callUnmute");
    await ada.untilHeard();
    await bob.click("callMute");
    await bob.click("callHangUp");
    await ada.sees("end_peer_hung_up");
    await ada.click("close");
    await expect.poll(() => bob.page.evaluate(() => sessionStorage.length)).toBe(0);
  },
  150_000,
);

test.skipIf(!isInstalled)(
  "who calls during a call hears that it is busy, and the call goes on",
  async () => {
    const cay = await site.open("Cay");
    await cay.start();
    await pair(cay, ada);
    await bob.call("Ada");
    await ada.click("callAccept");
    await bob.talks();
    await cay.call("Ada");
    await cay.sees("end_busy");
    await bob.untilHeard();
    await bob.click("callHangUp");
    await ada.sees("end_peer_hung_up");
    await ada.click("close");
    await cay.context.close();
  },
  150_000,
);

test.skipIf(!isInstalled)(
  "a call is missed and called back, declined, and then too soon",
  async () => {
    await bob.call("Ada");
    await ada.button("callAccept").waitFor();
    await bob.click("callCancel");
    await ada.sees("end_missed");
    await ada.click("callBack");
    await bob.click("callAccept");
    await bob.talks();
    await bob.click("callHangUp");
    await ada.sees("end_peer_hung_up");

    await ada.click("callAgain");
    await bob.click("callDecline");
    await ada.sees("end_declined");
    // Who was declined may not ring again at once.
    await ada.click("callAgain");
    await ada.sees("end_too_often");
    await ada.click("close");
  },
  150_000,
);

test.skipIf(!isInstalled)(
  "a QR code is read by the camera, and different words remove the contact",
  async () => {
    const dan = await site.open("Dan");
    await dan.start();
    await dan.click("contactsAdd");
    await dan.page.getByRole("tab", { name: dan.text("pairTabLink") }).click();
    const picture = await dan.page.locator(".qr").getAttribute("src");
    await ada.page.evaluate(holdBeforeCamera, picture ?? "");
    await ada.click("contactsAdd");
    await ada.page.getByRole("tab", { name: ada.text("pairTabEnter") }).click();
    await ada.click("pairScan");
    expect(await ada.words()).toEqual(await dan.words());
    await ada.click("wordsDifferent");
    await ada.page.getByText("somebody was in between").first().waitFor({ state: "attached" });
    await expect.poll(() => ada.page.locator(".contact-row", { hasText: "Dan" }).count()).toBe(0);
    await dan.context.close();
  },
  150_000,
);

/** The label of the picture in the small window. */
const smallWindow = () => document.pictureInPictureElement?.ariaLabel ?? undefined;

/** Gives the page a camera that shows a picture. */
async function holdBeforeCamera(source: string): Promise<void> {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [640, 640];
  const paint = () => {
    const context = canvas.getContext("2d");
    if (context === null) return;
    context.fillStyle = "white";
    context.fillRect(0, 0, 640, 640);
    context.drawImage(image, 40, 40, 560, 560);
  };
  setInterval(paint, 50);
  paint();
  const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (constraints) =>
    constraints?.video ? canvas.captureStream(20) : original(constraints);
}
