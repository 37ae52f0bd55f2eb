/** How this device is connected: its node, and why not if there is none. */
import type { Client, Confirmation, InboxRejection, SourceReport } from "@chappe/client";
import { batch, type Signal, signal } from "@preact/signals-core";

export type NetworkStatus = "connecting" | "connected" | "failed" | "in-use" | "unusable";

/** The node in use. */
export interface OwnNode {
  readonly id: string;
  readonly url: string;
  readonly region: string | undefined;
}

export class Network {
  /** `unusable`: the browser does not let this page lock or store its profile. */
  readonly status: Signal<NetworkStatus> = signal("connecting");
  readonly node: Signal<OwnNode | undefined> = signal(undefined);
  /** What each source and each dial has come to. */
  readonly reports: Signal<readonly SourceReport[]> = signal([]);
  readonly confirmation: Signal<Confirmation | undefined> = signal(undefined);
  /** When the next search begins, as `Date.now()`. */
  readonly retryAt: Signal<number | undefined> = signal(undefined);
  /** Nodes were found, and none took the inboxes: usually the clock is wrong. */
  readonly isRefused: Signal<boolean> = signal(false);
  readonly rejection: Signal<InboxRejection | undefined> = signal(undefined);

  constructor(client: Client) {
    client.addEventListener("connected", ({ detail: { node, url, region } }) =>
      batch(() => {
        this.status.value = "connected";
        this.node.value = { id: node, url, region };
        this.retryAt.value = undefined;
        this.isRefused.value = false;
        this.rejection.value = undefined;
      }),
    );
    client.addEventListener("disconnected", () =>
      batch(() => {
        this.status.value = "connecting";
        this.node.value = undefined;
        this.confirmation.value = undefined;
      }),
    );
    client.addEventListener("searchfailed", ({ detail: { error, retryIn } }) =>
      batch(() => {
        this.status.value = "failed";
        this.reports.value = error.reports;
        this.retryAt.value = Date.now() + retryIn;
      }),
    );
    client.addEventListener("nodechecked", ({ detail: { confirmation, reports } }) =>
      batch(() => {
        this.confirmation.value = confirmation;
        this.reports.value = reports;
      }),
    );
    client.addEventListener("notattached", () =>
      batch(() => {
        this.status.value = "failed";
        this.isRefused.value = true;
      }),
    );
    client.addEventListener("inboxrejected", ({ detail: { reason } }) => {
      this.rejection.value = reason;
    });
  }
}
