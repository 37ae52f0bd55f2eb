/** The SHA-256 of this page's script, as the build prints it. */

/** Of the one-file page: the text of its script element. `undefined` in the page of several files. */
export async function scriptHash(): Promise<string | undefined> {
  const script = document.querySelector("script:not([src])")?.textContent;
  if (!script) return undefined;
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(script));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
