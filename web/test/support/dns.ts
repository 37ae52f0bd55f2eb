/** DNS over HTTPS for tests. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { decode, encode } from "@dnsquery/dns-packet";

/** A provider of DNS over HTTPS that answers with the federation's records. Loopback needs no certificate in a page. */
export async function serveDns(texts: readonly string[]): Promise<{ url: string; queries: string[]; close(): void }> {
  const queries: string[] = [];
  const server = createServer((request, response) => {
    const query = new URL(request.url ?? "", "http://localhost").searchParams.get("dns") ?? "";
    const asked = decode(Buffer.from(query, "base64url"));
    const name = asked.questions?.[0]?.name ?? "";
    queries.push(`${request.method} ${name}`);
    const answers = texts.map((text) => ({
      type: "TXT" as const,
      name,
      ttl: 300,
      data: text.match(/.{1,255}/g) ?? [],
    }));
    const questions = asked.questions ?? [];
    response.setHeader("content-type", "application/dns-message");
    response.setHeader("access-control-allow-origin", "*");
    response.end(encode({ type: "response", id: 0, questions, answers }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/dns-query`, queries, close: () => server.close() };
}
