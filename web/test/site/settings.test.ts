/** The person's own name, and what a caller sees whose rings are refused. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { pair, Visitor } from "./visitor.js";

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
  120_000,
);

test.skipIf(!isInstalled)(
  "a name that the browser cannot store is not changed, and the person is told",
  async () => {
    const ada = await site.open("Ada");
    await ada.start();
    await ada.click("settingsTitle");
    const save = ada.page.locator("form", { has: ownName(ada) }).getByRole("button");
    await ada.page.evaluate(() => {
      IDBObjectStore.prototype.put = () => {
        throw new DOMException("", "QuotaExceededError");
      };
    });
    await ownName(ada).fill("Ada Lovelace");
    await save.click();
    await ada.seesText("settingsNameFault");
    await ada.page.reload();
    await ada.seesText("statusConnected");
    await ada.click("settingsTitle");
    expect(await ownName(ada).inputValue()).toBe("Ada");
    // It can be saved later.
    await ownName(ada).fill("Ada Lovelace");
    await save.click();
    await save.waitFor({ state: "detached" });
    expect(await ada.page.getByText(ada.text("settingsNameFault")).count()).toBe(0);
    expect(ada.errors).toEqual([]);
    await ada.context.close();
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "a profile's file that cannot be read is named as the cause, and the person can start without it",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "chappe-import-"));
    const path = join(folder, "profile.txt");
    writeFileSync(path, "a profile");
    const ada = await site.open("Ada");
    await ada.page.getByLabel(ada.text("welcomeName"), { exact: true }).fill("Ada");
    await ada.page.getByText(ada.text("welcomeMore"), { exact: true }).click();
    const file = ada.page.getByLabel(ada.text("welcomeFile"));
    await file.setInputFiles(path);
    // Somebody moves it before it is read.
    rmSync(folder, { recursive: true });
    await ada.click("welcomeStart");
    await ada.seesText("settingsExportFault_unreadable");
    await file.setInputFiles([]);
    await ada.click("welcomeStart");
    await ada.seesText("statusConnected");
    expect(ada.errors).toEqual([]);
    await ada.context.close();
  },
  120_000,
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
  120_000,
);

test.skipIf(!isInstalled)(
  "a profile that may leave its browser is exported, and imported by another one with its contacts",
  async () => {
    const [ada, bob] = await Promise.all([site.open("Ada"), site.open("Bob")]);
    await ada.page.getByText(ada.text("welcomeMore"), { exact: true }).click();
    await ada.page.getByRole("switch", { name: ada.text("welcomeExportable") }).click();
    await Promise.all([ada.start(), bob.start()]);
    await pair(ada, bob);
    const exported = async (visitor: Visitor) => {
      await visitor.click("settingsTitle");
      await visitor.page.getByLabel(visitor.text("settingsExportPassphrase")).fill("a long passphrase");
      await visitor.click("settingsExport");
    };
    await exported(bob);
    await bob.seesText("settingsExportFault_not_exportable");
    const [download] = await Promise.all([ada.page.waitForEvent("download"), exported(ada)]);
    expect(download.suggestedFilename()).toBe("profile.txt");
    const buffer = readFileSync(await download.path());
    for (const name of ["Ada", "Bob"]) expect(buffer.toString()).not.toContain(name);

    const other = await site.open("Ada");
    const enter = async (passphrase: string) => {
      await other.page.getByLabel(other.text("welcomeName"), { exact: true }).fill("Ada");
      await other.page.getByLabel(other.text("welcomePassphrase")).fill(passphrase);
      await other.click("welcomeStart");
    };
    await other.page.getByText(other.text("welcomeMore"), { exact: true }).click();
    await other.page
      .getByLabel(other.text("welcomeFile"))
      .setInputFiles({ name: "profile.txt", mimeType: "text/plain", buffer });
    await enter("another passphrase");
    await other.seesText("settingsExportFault_wrong_passphrase");
    // Where the profile was, it is not used any more.
    await ada.context.close();
    await enter("a long passphrase");
    await other.seesText("statusConnected");
    await other.call("Bob");
    await bob.click("callAccept");
    await Promise.all([other.talks(), bob.talks()]);
    expect([...other.errors, ...bob.errors]).toEqual([]);
    await Promise.all([other.context.close(), bob.context.close()]);
  },
  150_000,
);

test.skipIf(!isInstalled)(
  "an import beside another tab of the profile says what to do, and works once that tab is closed",
  async () => {
    const ada = await site.open("Ada");
    const second = await Visitor.openIn(ada.context, "Ada", site.federationUrl);
    await ada.page.getByText(ada.text("welcomeMore"), { exact: true }).click();
    await ada.page.getByRole("switch", { name: ada.text("welcomeExportable") }).click();
    await ada.start();
    await ada.click("settingsTitle");
    await ada.page.getByLabel(ada.text("settingsExportPassphrase")).fill("a long passphrase");
    const [download] = await Promise.all([ada.page.waitForEvent("download"), ada.click("settingsExport")]);
    const buffer = readFileSync(await download.path());

    const { page } = second;
    await page.getByLabel(second.text("welcomeName"), { exact: true }).fill("Ada");
    await page.getByText(second.text("welcomeMore"), { exact: true }).click();
    await page
      .getByLabel(second.text("welcomeFile"))
      .setInputFiles({ name: "profile.txt", mimeType: "text/plain", buffer });
    await page.getByLabel(second.text("welcomePassphrase")).fill("a long passphrase");
    await second.click("welcomeStart");
    await second.seesText("settingsExportFault_in_use");
    await ada.page.close();
    await second.click("welcomeStart");
    await second.seesText("statusConnected");
    expect(second.errors).toEqual([]);
    await ada.context.close();
  },
  120_000,
);
