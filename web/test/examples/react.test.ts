/** The example `react`: a component that `StrictMode` mounts twice. */
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pairByCode } from "../../src/pairing/pair.js";
import { serveExample } from "../../tools/example.mjs";
import { type Federation, startFederation } from "../support/federation.js";
import { person } from "../support/people.js";
import { hasChromium, launchChromium, openExample } from "./chromium.js";

/** How long a second client would take at most to connect, in milliseconds. */
const SETTLED = 2_000;

const isInstalled = hasChromium();
let federation: Federation;
let example: Awaited<ReturnType<typeof serveExample>>;
let browser: Browser;

beforeAll(async () => {
  if (!isInstalled) return;
  [federation, example, browser] = await Promise.all([startFederation(), serveExample("react"), launchChromium()]);
}, 60_000);

afterAll(async () => {
  await Promise.all([browser?.close(), example?.stop(), federation?.stop()]);
});

/** The sessions of clients at all nodes. */
async function sessions(): Promise<number> {
  const counts = federation.nodes.map(async ({ clientUrl }) => {
    const response = await fetch(`${clientUrl.replace("ws:", "http:")}/stats`);
    return ((await response.json()) as { sessions: number }).sessions;
  });
  return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
}

test.skipIf(!isInstalled)(
  "the double mount of StrictMode leaves one connected client, which is called",
  async () => {
    await expect.poll(sessions).toBe(0);
    const page = await openExample(browser, example.url, federation);
    await page
      .getByRole("status")
      .filter({ hasText: /^connected$/ })
      .waitFor();
    await new Promise((resolve) => setTimeout(resolve, SETTLED));
    await expect.poll(sessions).toBe(1);

    await page.getByRole("button", { name: "Show a code" }).click();
    const output = page.locator("output").filter({ hasText: /./ });
    const ada = person("Ada", federation);
    await ada.client.connect();
    const { contact } = await pairByCode((await output.textContent()) ?? "", ada.pairing);
    await page.getByRole("listitem").filter({ hasText: "Ada" }).waitFor();
    const call = await ada.client.call(contact.id, "v=0");
    const ended = new Promise((resolve) => call.addEventListener("ended", ({ detail }) => resolve(detail.reason)));
    await page.getByRole("alert").filter({ hasText: "Ada calls" }).waitFor();
    await page.getByRole("button", { name: "Decline" }).click();
    expect(await ended).toBe("declined");
    await page.getByRole("alert").waitFor({ state: "detached" });
    await ada.client.close();
  },
  150_000,
);
