/** The example `five-lines` in two profiles of Chromium. */
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { serveExample } from "../../tools/example.mjs";
import { type Federation, startFederation } from "../support/federation.js";
import { hasChromium, launchChromium, openExample } from "./chromium.js";

const isInstalled = hasChromium();
let federation: Federation;
let example: Awaited<ReturnType<typeof serveExample>>;
let browser: Browser;

beforeAll(async () => {
  if (!isInstalled) return;
  [federation, example, browser] = await Promise.all([startFederation(), serveExample("five-lines"), launchChromium()]);
}, 60_000);

afterAll(async () => {
  await Promise.all([browser?.close(), example?.stop(), federation?.stop()]);
});

async function open(): Promise<Page> {
  const page = await openExample(browser, example.url, federation);
  await page.locator("body[data-ready]").waitFor();
  return page;
}

/** The text of an element, once it is what is wanted. */
async function text(page: Page, id: string, wanted: RegExp): Promise<string> {
  const element = page.locator(`#${id}`).filter({ hasText: wanted });
  await element.waitFor();
  return (await element.textContent()) ?? "";
}

/** Waits until the loudest frequency of the voice is heard over silence. */
function hears(page: Page): Promise<unknown> {
  return page.waitForFunction(async () => {
    const voice = document.getElementById("voice") as HTMLAudioElement;
    const context = new AudioContext();
    const analyser = new AnalyserNode(context);
    context.createMediaStreamSource(voice.srcObject as MediaStream).connect(analyser);
    const spectrum = new Float32Array(analyser.frequencyBinCount);
    const until = Date.now() + 3_000;
    let loudest = Number.NEGATIVE_INFINITY;
    // The fake microphone beeps once a second.
    while (loudest < -60 && Date.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      analyser.getFloatFrequencyData(spectrum);
      loudest = Math.max(loudest, ...spectrum);
    }
    await context.close();
    return loudest >= -60;
  });
}

test.skipIf(!isInstalled)(
  "two people pair, call, answer, hear each other and hang up",
  async () => {
    const [ada, bob] = await Promise.all([open(), open()]);
    await bob.click("#show");
    await bob.waitForFunction(() => (document.getElementById("code") as HTMLInputElement).value !== "");
    await ada.fill("#code", await bob.inputValue("#code"));
    await ada.click("#pair");
    const fourWords = /^\w+( \w+){3}$/;
    expect(await text(ada, "words", fourWords)).toBe(await text(bob, "words", fourWords));

    await ada.click("#call");
    await text(bob, "state", /^incoming$/);
    await bob.click("#answer");
    await Promise.all([text(ada, "state", /^connected$/), text(bob, "state", /^connected$/)]);
    await Promise.all([hears(ada), hears(bob)]);
    await bob.click("#hang-up");
    await Promise.all([text(ada, "state", /^peer-hung-up$/), text(bob, "state", /^hung-up$/)]);
  },
  120_000,
);
