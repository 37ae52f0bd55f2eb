/** The person's own name, and what a caller sees whose rings are refused. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { pair, type Visitor } from "./visitor.js";

const isInstalled = hasChromium();
let site: Site;

beforeAll(async () => {
  if (!isInstalled) return;
  site = await Site.start(startFederation(2));
}, 90_000);

afterAll(() => site?.stop());

const ownName = (visitor: Visitor) => visitor.page.getByLabel(visitor.text("settingsName"), { exact: true });

test.skipIf(!isInstalled)(
  "a person changes their name, which new contacts see, and which is there after a reload",
  async () => {
    const [ada, bob] = await Promise.all([site.open("Ada", { locale: "de" }), site.open("Bob", { locale: "ar" })]);
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
    const [ada, bob] = await site.openTwo();
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
