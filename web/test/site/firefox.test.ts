/** The main path in Firefox, which calls Chromium and is called by it. */
import type { Browser, Page } from "puppeteer-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { en } from "../../page/src/texts/en.js";
import type { TextKey } from "../../page/src/texts/texts.js";
import { installedBrowsers, PATHS, startSound } from "../support/browsers.js";
import { eventually, startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { AUDIBLE, collectPeers, heard } from "./visitor.js";

const isInstalled = installedBrowsers().length === 2;
let site: Site;
let sound: Awaited<ReturnType<typeof startSound>>;
let firefox: Browser;

beforeAll(async () => {
  if (!isInstalled) return;
  const puppeteer = await import("puppeteer-core");
  [site, sound] = await Promise.all([Site.start(startFederation(2)), startSound()]);
  firefox = await puppeteer.launch({
    browser: "firefox",
    executablePath: PATHS.firefox,
    headless: true,
    env: { ...process.env, ...sound.env },
    extraPrefsFirefox: {
      "intl.accept_languages": "en",
      "media.autoplay.default": 0,
      "media.autoplay.blocking_policy": 0,
      "media.autoplay.block-webaudio": false,
      "media.navigator.permission.disabled": true,
      "media.navigator.streams.fake": true,
      "media.peerconnection.ice.loopback": true,
      "media.peerconnection.ice.obfuscate_host_addresses": false,
    },
  });
}, 120_000);

afterAll(async () => {
  await Promise.all([site?.stop(), firefox?.close()]);
  sound?.stop();
});

/** Waits for a button with this text or label, and clicks it. */
async function click(page: Page, key: TextKey): Promise<void> {
  await eventually(`the button ${en[key]}`, () =>
    page.evaluate((text) => {
      const buttons = [...document.querySelectorAll<HTMLButtonElement>("button:enabled")];
      const found = buttons.find((button) => (button.ariaLabel ?? button.textContent) === text);
      found?.click();
      return found !== undefined;
    }, en[key]),
  );
}

async function seesText(page: Page, text: string): Promise<void> {
  await eventually(text, () => page.evaluate((wanted) => document.body.textContent?.includes(wanted), text));
}

test.skipIf(!isInstalled)(
  "Firefox pairs with Chromium, calls it and is called",
  async () => {
    const ada = await site.open("Ada");
    await ada.start();
    const page = await firefox.newPage();
    await page.setViewport({ width: 1280, height: 800 });
    await page.evaluateOnNewDocument(collectPeers);
    await page.goto(site.federationUrl);
    await page.type("input[required]", "Fay");
    await click(page, "welcomeStart");
    await seesText(page, en.statusConnected);
    await click(page, "contactsAdd");
    const code = await eventually("the code", () =>
      page.evaluate(() => document.querySelector(".pair-code")?.textContent ?? undefined),
    );
    await ada.enter(code);
    const words = await ada.words();
    await seesText(page, words.join(""));
    await ada.click("wordsSame");
    await click(page, "wordsSame");
    await ada.allowDirect("Fay");
    await page.evaluate(() => document.querySelector<HTMLInputElement>("[role=switch]")?.click());
    await seesText(page, "may see your IP address");

    const hearEachOther = async () => {
      const before = (await page.evaluate(heard)).energy;
      const heardMore = async () => (await page.evaluate(heard)).energy - before;
      await Promise.all([ada.untilHeard(), expect.poll(heardMore).toBeGreaterThan(AUDIBLE)]);
    };
    await ada.call("Fay");
    await click(page, "callAccept");
    await ada.talks();
    await hearEachOther();
    await ada.click("callHangUp");
    await seesText(page, en.end_peer_hung_up);
    await click(page, "callAgain");
    await ada.click("callAccept");
    await ada.talks();
    await hearEachOther();
    await ada.click("callHangUp");
    await seesText(page, en.end_peer_hung_up);
    expect(ada.errors).toEqual([]);
  },
  120_000,
);
