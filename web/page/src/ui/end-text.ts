/** Why a call is over, in words. */
import type { ActiveCall } from "../store/active-call.js";
import { keyOf, t } from "../texts/texts.js";

/** Whether the other side called in vain. */
export function isMissed(active: ActiveCall): boolean {
  const reason = active.end.value;
  const isGone = reason === "no-answer" || reason === "peer-hung-up";
  return !active.isCaller && active.connectedAt.value === undefined && isGone;
}

export function endTitle(active: ActiveCall): string {
  const reason = active.end.value;
  if (reason === undefined) return "";
  if (isMissed(active)) return t("end_missed");
  if (reason === "not-connected" && active.call === undefined) return t("statusFailed");
  return t(keyOf("end_", reason));
}

export function endHelp(active: ActiveCall, name: string): string | undefined {
  switch (active.end.value) {
    case "offline":
      return t("endHelp_offline");
    case "too-often":
      return t("endHelp_too_often");
    case "no-relay":
      return t("callNeedsDirect", { name });
    case "not-connected":
      return t("endHelp_not_connected");
    case "refused":
      return t("endHelp_refused");
    default:
      return undefined;
  }
}
