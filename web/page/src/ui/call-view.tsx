/** The call, whatever stage it is in. */
import { useEffect } from "preact/hooks";
import type { ActiveCall, Stage } from "../store/active-call.js";
import { t } from "../texts/texts.js";
import { EndedView } from "./call-ended.js";
import { RingView } from "./call-ring.js";
import { TalkView } from "./call-talk.js";
import { useApp, useSession } from "./context.js";
import { endTitle } from "./end-text.js";

export function CallView({ active }: { active: ActiveCall }) {
  const { book } = useSession();
  const name = book.find(active.contact)?.name ?? "";
  const stage = active.stage.value;
  useAnnouncement(active, stage, name);
  if (stage === "ended") return <EndedView active={active} name={name} />;
  if (stage === "connected" || stage === "reconnecting") return <TalkView active={active} name={name} />;
  return <RingView active={active} name={name} stage={stage} />;
}

/** A screen reader says each stage. */
function useAnnouncement(active: ActiveCall, stage: Stage, name: string): void {
  const app = useApp();
  useEffect(() => {
    app.announcement.value = {
      incoming: t("callFrom", { name }),
      calling: t("callCalling"),
      ringing: t("callRinging"),
      connecting: t("callConnecting"),
      connected: t("callConnected"),
      reconnecting: t("callLost"),
      ended: endTitle(active),
    }[stage];
  }, [app, active, stage, name]);
}
