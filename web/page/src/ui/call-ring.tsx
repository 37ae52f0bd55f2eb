/** Calling somebody, or being called. */
import type { ActiveCall, Stage } from "../store/active-call.js";
import { t } from "../texts/texts.js";
import { Avatar } from "./avatar.js";
import { CallButton } from "./call-button.js";
import { Notice } from "./call-notice.js";
import { useSession } from "./context.js";
import { Title } from "./controls.js";
import { PathPicture } from "./path-picture.js";

export function RingView({ active, name, stage }: { active: ActiveCall; name: string; stage: Stage }) {
  const { desk } = useSession();
  const isIncoming = stage === "incoming";
  const needsDirect = isIncoming && active.needsDirect.value;
  return (
    <main class="call ring" data-stage={stage}>
      <div class="ring-who">
        <span class="ring-waves">
          <Avatar id={active.contact} name={name} size="large" />
        </span>
        <Title>
          <bdi>{name}</bdi>
        </Title>
        <p class="ring-state">{stateText(active, stage, name)}</p>
        {needsDirect && (
          <p class="end-help" role="alert">
            {t("callNeedsDirect", { name })}
          </p>
        )}
      </div>
      {active.isCaller && <PathPicture active={active} name={name} />}
      <Notice />
      <div class="call-controls">
        {isIncoming ? (
          <>
            <CallButton icon="hangUp" label={t("callDecline")} kind="danger" onClick={() => desk.hangUp()} />
            {needsDirect ? (
              <CallButton
                icon="phone"
                label={t("callAcceptDirect")}
                kind="go"
                onClick={() => void desk.acceptDirect()}
              />
            ) : (
              <>
                <CallButton icon="camera" label={t("callAcceptVideo")} onClick={() => void desk.accept(true)} />
                <CallButton icon="phone" label={t("callAccept")} kind="go" onClick={() => void desk.accept(false)} />
              </>
            )}
          </>
        ) : (
          <CallButton icon="hangUp" label={t("callCancel")} kind="danger" onClick={() => desk.hangUp()} />
        )}
      </div>
    </main>
  );
}

function stateText(active: ActiveCall, stage: Stage, name: string): string {
  if (stage === "incoming") return t("callIncoming");
  if (stage === "ringing") return t("callRinging");
  if (stage === "connecting") return t("callConnecting");
  if (active.isUnreached.value) return t("callUnreached");
  return active.steps.value.length === 0 ? t("callCalling") : t("callLooking", { name });
}
