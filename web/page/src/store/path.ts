/** The way of a call, from its steps: who passed its messages on, and how long that took. */
import type { Step } from "@chappe/client";

/** The way of a call's messages. Times are in milliseconds; `undefined` is unknown. */
export interface CallPath {
  readonly ownNode: string | undefined;
  /** The node of the other side, once it is known. */
  readonly peerNode: string | undefined;
  /** How long the homes took to name the other side's node. */
  readonly lookUpMs: number | undefined;
  readonly isLookingUp: boolean;
  /** How long the newest message took from this device to the other and back. */
  readonly deliveryMs: number | undefined;
  readonly sent: number;
  readonly received: number;
}

export function pathOf(steps: readonly Step[]): CallPath {
  let path: CallPath = {
    ownNode: undefined,
    peerNode: undefined,
    lookUpMs: undefined,
    isLookingUp: false,
    deliveryMs: undefined,
    sent: 0,
    received: 0,
  };
  let askedAt: number | undefined;
  /** Messages of one kind arrive in their order. */
  const pending = new Map<Step["message"], number[]>();
  for (const step of steps) {
    path = { ...path, ownNode: step.node, peerNode: step.peerNode ?? path.peerNode };
    switch (step.kind) {
      case "resolving":
        askedAt = step.at;
        path = { ...path, isLookingUp: true };
        break;
      case "resolved":
        path = { ...path, isLookingUp: false, lookUpMs: askedAt === undefined ? undefined : step.at - askedAt };
        break;
      case "sent":
        pending.set(step.message, [...(pending.get(step.message) ?? []), step.at]);
        path = { ...path, sent: path.sent + 1 };
        break;
      case "delivered":
      case "failed": {
        const [first, ...rest] = pending.get(step.message) ?? [];
        pending.set(step.message, rest);
        if (step.kind === "delivered" && first !== undefined) path = { ...path, deliveryMs: step.at - first };
        break;
      }
      case "received":
        path = { ...path, received: path.received + 1 };
        break;
    }
  }
  return path;
}
