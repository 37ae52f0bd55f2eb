/**
 * Every screen, in both themes, on a phone and on a large display, and right to left: nothing that axe finds serious.
 * With `PICTURES=folder`, pictures of all are written there.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import type { AxeResults } from "axe-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { Visitor } from "./visitor.js";

const SIZES = { 360: { width: 360, height: 740 }, 1920: { width: 1920, height: 1080 } };
const THEMES = ["light", "dark"] as const;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PICTURES = process.env.PICTURES;

const isInstalled = hasChromium();
let site: Site;

beforeAll(async () => {
  if (!isInstalled) return;
  site = await Site.start(startFederation(2));
  if (PICTURES !== undefined) mkdirSync(PICTURES, { recursive: true });
}, 90_000);

afterAll(() => site?.stop());

/** Looks at what a page shows now. Returns what is wrong with it. */
async function look({ page }: Visitor, locale: string, scene: string): Promise<string[]> {
  const faults: string[] = [];
  for (const [width, size] of Object.entries(SIZES)) {
    await page.setViewportSize(size);
    for (const colorScheme of THEMES) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.waitForTimeout(150);
      const name = `${scene}-${locale}-${width}-${colorScheme}`;
      if (PICTURES !== undefined) await page.screenshot({ path: join(PICTURES, `${name}.png`) });
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() => {
        const { axe } = globalThis as unknown as { axe: { run(): Promise<AxeResults> } };
        return axe.run();
      });
      for (const { id, impact, nodes } of violations) {
        if (impact !== "serious" && impact !== "critical") continue;
        faults.push(...nodes.map((node) => `${name}: ${id} at ${node.target}: ${node.failureSummary}`));
      }
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (overflow > 0) faults.push(`${name}: ${overflow} px wider than the window`);
    }
  }
  return faults;
}

describe.skipIf(!isInstalled).each(["en", "ar"])("in %s", (locale) => {
  test("every screen is usable and fits", async () => {
    const url = site.federationUrl;
    const faults: string[] = [];
    const visitor = (name: string) =>
      Visitor.open(site.browser, name, url, { locale, permissions: ["clipboard-write"] });
    const [ada, bob] = await Promise.all([visitor("Ada"), visitor("Bob Öztürk")]);
    const see = async (one: Visitor, scene: string) => faults.push(...(await look(one, locale, scene)));
    await see(ada, "01-welcome");
    await Promise.all([ada.start(), bob.start()]);
    await see(ada, "02-home");

    await ada.page.setViewportSize(SIZES[1920]);
    const code = await ada.showCode();
    await see(ada, "03-pair-code");
    await bob.enter("A66PXB-8LQK");
    await bob.seesText("pairFault_no_such_code");
    await see(bob, "04-pair-fault");
    await bob.page.getByLabel(bob.text("pairEnterLabel")).fill(code);
    await bob.click("pairEnter");
    await ada.sees("wordsTitle");
    await see(ada, "05-words");
    await ada.click("wordsLater");
    await ada.seesText("contactReachable");
    await see(ada, "06-contact");
    await ada.page.setViewportSize(SIZES[1920]);
    await bob.page.setViewportSize(SIZES[1920]);

    await ada.call(bob.name);
    await ada.sees("end_no_relay");
    await see(ada, "07-no-relay");
    await bob.click("wordsSame");
    await bob.allowDirect(ada.name);
    await ada.click("endAllowDirect");
    await bob.button("callAccept").waitFor();
    await see(bob, "08-incoming");
    await see(ada, "09-ringing");
    await bob.click("callAcceptVideo");
    await ada.talks();
    await see(ada, "10-talk-words");
    await ada.click("wordsSame");
    await ada.click("callPath");
    await ada.page.locator(".path-media[data-live=true]").waitFor();
    await see(ada, "11-talk-path");
    await ada.click("callPath");
    await ada.click("callCameraOn");
    await ada.page.getByLabel(ada.text("callPreview")).waitFor();
    await see(ada, "12-talk-video");
    await ada.click("callDevices");
    await see(ada, "13-talk-devices");
    await bob.click("callCameraOff");
    await ada.click("callCameraOff");
    await bob.page.locator(".talk-face").waitFor();
    await see(bob, "14-talk-sound");
    await bob.click("callHangUp");
    await ada.sees("end_peer_hung_up");
    await see(ada, "15-ended");
    await ada.click("close");

    await ada.page.setViewportSize(SIZES[1920]);
    await ada.click("contactsAdd");
    await ada.page.getByRole("tab", { name: ada.text("pairTabLink") }).click();
    await ada.page.locator(".qr").waitFor();
    await see(ada, "16-pair-link");
    await ada.page.setViewportSize(SIZES[1920]);
    await ada.click("settingsTitle");
    await see(ada, "17-settings");
    await ada.click("settingsWhy");
    await ada.click("diagnosisRun");
    await ada.button("diagnosisRun").waitFor();
    await see(ada, "18-diagnosis");
    expect(faults).toEqual([]);
    expect([...ada.errors, ...bob.errors]).toEqual([]);
  }, 300_000);
});
