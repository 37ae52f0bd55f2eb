/** How this device is connected, in one line that leads to the diagnosis. */

import type { NetworkStatus } from "../store/network.js";
import { t } from "../texts/texts.js";
import { useNow, useSession } from "./context.js";

const TEXTS = {
  connecting: "statusConnecting",
  connected: "statusConnected",
  failed: "statusFailed",
  "in-use": "statusInUse",
  unusable: "statusUnusable",
} as const satisfies Record<NetworkStatus, string>;

export function StatusLine() {
  const { network, show } = useStatus();
  const status = network.status.value;
  const region = network.node.value?.region;
  return (
    <button type="button" class="status" data-status={status} onClick={show}>
      <span class="dot" />
      <span role="status">
        {t(TEXTS[status])}
        {region && ` · ${region}`}
      </span>
    </button>
  );
}

function useStatus() {
  const session = useSession();
  return { network: session.network, show: () => session.show({ name: "diagnosis" }) };
}

/** What to do while there is no node. */
export function StatusHelp() {
  const { network, show } = useStatus();
  const status = network.status.value;
  const retryAt = network.retryAt.value;
  const now = useNow(retryAt !== undefined);
  if (status === "in-use") return <p class="banner">{t("statusInUseHelp")}</p>;
  if (status === "unusable") return <p class="banner">{t("statusUnusableHelp")}</p>;
  if (status !== "failed") return null;
  const seconds = retryAt === undefined ? 0 : Math.max(0, Math.ceil((retryAt - now) / 1_000));
  return (
    <p class="banner">
      {t("statusFailedHelp")} {seconds > 0 && t("statusRetry", { seconds })}{" "}
      <button type="button" class="link" onClick={show}>
        {t("statusWhy")}
      </button>
    </p>
  );
}
