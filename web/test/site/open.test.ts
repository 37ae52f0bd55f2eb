/** How the page opens: fast, without a network, and by a link. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { Visitor } from "./visitor.js";

/** A phone of 2017 is about six times slower than a laptop. */
const SLOWER = 6;
const FIRST_PAINT = 1_500;

const isInstalled = hasChromium();
let site: Site;

beforeAll(async () => {
  if (!isInstalled) return;
  site = await Site.start(startFederation(2));
}, 90_000);

afterAll(() => site?.stop());

/** Opens the page on a slow phone. Returns after how many milliseconds it is first painted. */
async function firstPaint(): Promise<number> {
  const context = await site.browser.newContext();
  const page = await context.newPage();
  const session = await context.newCDPSession(page);
  await session.send("Emulation.setCPUThrottlingRate", { rate: SLOWER });
  await page.goto(site.url);
  await page.getByRole("heading", { level: 1 }).waitFor();
  const entry = () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime;
  await expect.poll(() => page.evaluate(entry)).toBeDefined();
  const painted = (await page.evaluate(entry)) as number;
  const ready = await page.evaluate(() => performance.now());
  console.log(`the first screen is ready after ${Math.round(ready)} ms`);
  console.log(`first contentful paint with a ${SLOWER} times slower CPU: ${Math.round(painted)} ms`);
  await context.close();
  return painted;
}

test.skipIf(!isInstalled)(
  "the first screen is there in time on a slow phone",
  async () => {
    let best = await firstPaint();
    // The best of three: a machine that does other things takes longer.
    for (let again = 0; again < 2 && best >= FIRST_PAINT; again++) best = Math.min(best, await firstPaint());
    expect(best).toBeLessThan(FIRST_PAINT);
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "it can be installed, opens without a network, says so, and connects when there is one",
  async () => {
    const ada = await site.open("Ada");
    await ada.start();
    await ada.page.evaluate(() => navigator.serviceWorker.ready);
    const session = await ada.context.newCDPSession(ada.page);
    const { installabilityErrors } = await session.send("Page.getInstallabilityErrors");
    // A test's profile is a private window, in which nothing can be installed.
    expect(installabilityErrors.map(({ errorId }) => errorId)).toEqual(["in-incognito"]);
    await ada.context.setOffline(true);
    await ada.page.reload();
    await ada.seesText("statusFailed");
    await ada.context.setOffline(false);
    await ada.seesText("statusConnected");
    await ada.context.close();
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "a second tab says that the profile is open in the first",
  async () => {
    const url = site.federationUrl;
    const ada = await site.open("Ada");
    await ada.start();
    const second = await Visitor.openIn(ada.context, "Ada", url);
    await second.seesText("statusInUse");
    await second.page.goto(`${url}&profile=2`);
    await second.page.reload();
    await second.sees("welcomeTitle");
    await second.start();
    await ada.context.close();
  },
  120_000,
);

/** Makes the browser give the page no lock. */
function refuseLocks(): void {
  LockManager.prototype.request = () => Promise.reject(new DOMException("", "SecurityError"));
}

test.skipIf(!isInstalled)(
  "a page that the browser gives no lock says that it cannot store, and not that another tab is open",
  async () => {
    const ada = await site.open("Ada");
    await ada.page.addInitScript(refuseLocks);
    await ada.page.reload();
    await ada.page.getByLabel(ada.text("welcomeName"), { exact: true }).fill("Ada");
    await ada.click("welcomeStart");
    await ada.seesText("statusUnusable");
    await ada.seesText("statusUnusableHelp");
    expect(ada.errors).toEqual([]);
    await ada.context.close();
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "a link pairs at the first start, without any other setting",
  async () => {
    const ada = await site.open("Ada");
    await ada.start();
    await ada.click("contactsAdd");
    await ada.page.getByRole("tab", { name: ada.text("pairTabLink") }).click();
    const qrText = await ada.page.getByLabel(ada.text("pairLinkLabel")).inputValue();
    expect(qrText).toMatch(/^CHAPPE:/);
    // Links with an address of a private network need leave.
    const bob = await Visitor.open(site.browser, "Bob", `${site.url}#${new URLSearchParams({ link: qrText })}&private`);
    await bob.seesText("welcomeByLink");
    expect(new URL(bob.page.url()).hash).toBe("");
    await bob.start();
    await Promise.all([ada.sees("wordsTitle"), bob.sees("wordsTitle")]);
    expect(await bob.words()).toEqual(await ada.words());
    // The nodes of a link go away some day. The federation to which it commits stays.
    await bob.click("settingsTitle");
    const registries = bob.page.getByLabel(bob.text("federationRegistries"));
    expect(await registries.inputValue()).toBe(site.federation.registry);
    expect([...ada.errors, ...bob.errors]).toEqual([]);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  120_000,
);

test.skipIf(!isInstalled)(
  "a link pairs nobody with a profile that exists until the person says so, and a federation is shown whole",
  async () => {
    const [ada, bob] = await site.openTwo();
    await ada.click("contactsAdd");
    await ada.page.getByRole("tab", { name: ada.text("pairTabLink") }).click();
    const qrText = await ada.page.getByLabel(ada.text("pairLinkLabel")).inputValue();
    // Another site leads Bob's browser to the page.
    await bob.page.goto("about:blank");
    await bob.page.goto(`${site.url}#${new URLSearchParams({ link: qrText })}`);
    await bob.seesText("statusConnected");
    expect(await bob.page.getByLabel(bob.text("pairEnterLabel")).inputValue()).toBe(qrText);
    expect(await ada.page.getByLabel(ada.text("pairLinkLabel")).inputValue()).toBe(qrText);
    await bob.click("pairEnter");
    await Promise.all([ada.sees("wordsTitle"), bob.sees("wordsTitle")]);

    // A federation that differs in what is easily overlooked.
    const root = "A".repeat(43);
    const other = `${site.federationUrl}&root=${root}&doh=https://resolver.example`;
    await bob.page.goto("about:blank");
    await bob.page.goto(other);
    await bob.seesText("federationOffered");
    for (const text of [root, "https://resolver.example"]) await bob.page.getByText(text).waitFor();
    await bob.seesText("federationPrivate");
    // One that no client can be made of is not offered.
    await bob.page.goto("about:blank");
    await bob.page.goto(`${site.federationUrl}&root=x`);
    await bob.seesText("statusConnected");
    expect(await bob.page.getByText(bob.text("federationOffered")).count()).toBe(0);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  120_000,
);
