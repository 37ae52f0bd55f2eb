/** The person's own name, and what a caller sees whose rings are refused. */
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

const ownName = (visitor: Visitor) => visitor.page.getByLabel(visitor.text("settingsName"), { exact: true });

test.skipIf(!isInstalled)(
  "a person changes their name, which new contacts see, and which is there after a reload",
  async () => {
    const url = `${site.url}${fragmentOf(federation)}`;
    const [ada, bob] = await Promise.all([
      Visitor.open(browser, "Ada", url, { locale: "de" }),
      Visitor.open(browser, "Bob", url, { locale: "ar" }),
    ]);
    await Promise.all([ada.start(), bob.start()]);
    await ada.click("settingsTitle");
    expect(await ownName(ada).inputValue()).toBe("Ada");
    const form = ada.page.locator("form", { has: ownName(ada) });
    expect(await form.getByRole("button").count()).toBe(0);
    await ownName(ada).fill("  Ada\u202e Lovelace ");
    await form.getByRole("button", { name: ada.text("save") }).click();
    await expect.poll(() => ownName(ada).inputValue()).toBe("Ada Lovelace");
    await ada.page.reload();
    await ada.seesText("statusConnected");
    await ada.click("settingsTitle");
    expect(await ownName(ada).inputValue()).toBe("Ada Lovelace");
    await bob.enter(await ada.showCode());
    await Promise.all([ada.sees("wordsTitle"), bob.sees("wordsTitle")]);
    await bob.click("wordsSame");
    await bob.seesHeading("Ada Lovelace");
    expect([...ada.errors, ...bob.errors]).toEqual([]);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  60_000,
);

test.skipIf(!isInstalled)(
  "a caller whose second ring is refused is told so, and not that the other person is in a call",
  async () => {
    const url = `${site.url}${fragmentOf(federation)}`;
    const [ada, bob] = await Promise.all([Visitor.open(browser, "Ada", url), Visitor.open(browser, "Bob", url)]);
    await Promise.all([ada.start(), bob.start()]);
    await pair(ada, bob);
    await ada.call("Bob");
    await bob.click("callDecline");
    await ada.sees("end_declined");
    await ada.click("callAgain");
    await ada.sees("end_too_often");
    await ada.seesText("endHelp_too_often");
    expect(await bob.button("callAccept").count()).toBe(0);
    expect([...ada.errors, ...bob.errors]).toEqual([]);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  60_000,
);
