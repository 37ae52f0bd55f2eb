/** Two people talk: pictures, or a quiet face, and what can be done. */
import { useState } from "preact/hooks";
import type { ActiveCall } from "../store/active-call.js";
import { durationText, t } from "../texts/texts.js";
import { Avatar } from "./avatar.js";
import { CallButton } from "./call-button.js";
import { Notice } from "./call-notice.js";
import { Preview, Video } from "./call-video.js";
import { useNow, useSession } from "./context.js";
import { Button, Title } from "./controls.js";
import { Icon } from "./icon.js";
import { Lazy } from "./lazy.js";
import { PathPicture } from "./path-picture.js";
import { WordsCard } from "./words-view.js";

const loadDevices = async () => (await import("./call-devices.js")).DeviceMenu;

type Panel = "none" | "devices" | "path";

export function TalkView({ active, name }: { active: ActiveCall; name: string }) {
  const { desk, book } = useSession();
  const [panel, setPanel] = useState<Panel>("none");
  const [video, setVideo] = useState<HTMLVideoElement | null>(null);
  const contact = book.find(active.contact);
  const { camera, screen } = active.remoteMedia.value;
  const hasPicture = (camera && active.camera.value) || (screen && active.screen.value);
  return (
    <main class="call talk" data-picture={hasPicture !== undefined && hasPicture !== false}>
      <TalkTop active={active} name={name} />
      <div class="talk-stage">
        {screen && active.screen.value && (
          <Video
            stream={active.screen.value}
            label={t("callRemoteScreen", { name })}
            kind="screen"
            onElement={setVideo}
          />
        )}
        {camera && active.camera.value && (
          <Video
            stream={active.camera.value}
            label={t("callRemoteCamera", { name })}
            kind="camera"
            onElement={setVideo}
          />
        )}
        {!hasPicture && (
          <span class="talk-face">
            <Avatar id={active.contact} name={name} size="large" />
          </span>
        )}
        <Preview />
      </div>
      <div class="talk-notes">
        {desk.sound.needsTap.value && (
          <Button kind="primary" icon="speaker" onClick={() => void desk.sound.tap()}>
            {t("callTap")}
          </Button>
        )}
        <Notice />
        {desk.sends.value.screen && <p class="talk-note">{t("callScreenShared")}</p>}
        {active.stage.value === "connected" && !active.remoteMedia.value.sound && (
          <p class="talk-note">{t("callRemoteSilent", { name })}</p>
        )}
        {active.isVideoPaused.value && <p class="talk-note">{t("callPicturesPaused")}</p>}
        {desk.isMuted.value && <p class="talk-note">{t("callMuted")}</p>}
        {contact && <WordsCard contact={contact} onDone={() => undefined} />}
        {panel === "devices" && <Lazy load={loadDevices} props={{}} />}
        {panel === "path" && <PathPicture active={active} name={name} />}
      </div>
      <TalkControls video={video} panel={panel} onPanel={setPanel} />
    </main>
  );
}

function TalkTop({ active, name }: { active: ActiveCall; name: string }) {
  const now = useNow();
  const since = active.reconnectingSince.value;
  const quality = active.quality.value;
  const qualityText =
    quality && t(({ good: "qualityGood", fair: "qualityFair", poor: "qualityPoor" } as const)[quality]);
  return (
    <header class="talk-top">
      <div>
        <Title>
          <bdi>{name}</bdi>
        </Title>
        {since === undefined ? (
          <p class="talk-time" role="timer">
            {durationText(active.duration(now))}
          </p>
        ) : (
          <p class="talk-time" data-lost="true">
            {t("callReconnecting", { seconds: Math.max(0, Math.round((now - since) / 1_000)) })}
          </p>
        )}
      </div>
      <div class="talk-facts">
        {qualityText && (
          <p class="quality" data-quality={quality}>
            <span class="bars" aria-hidden="true">
              <i />
              <i />
              <i />
            </span>
            {qualityText}
          </p>
        )}
        <SeenLine active={active} name={name} />
      </div>
    </header>
  );
}

/** What the other side can see of this device, from the path in use and not from a setting. */
function SeenLine({ active, name }: { active: ActiveCall; name: string }) {
  const route = active.route.value;
  const addresses = route?.visibleAddresses ?? [];
  // The browser may hide this device's addresses from the page, but a direct path shows one all the same.
  const isSeen = addresses.length > 0 || (route !== undefined && route.local.type !== "relay");
  const text =
    route === undefined
      ? t("seenUnknown")
      : addresses.length > 0
        ? t("seenAddress", { name, address: addresses.join(", ") })
        : t(isSeen ? "seenHidden" : "seenNothing", { name });
  return (
    <p class="seen" data-seen={isSeen}>
      <Icon name={isSeen ? "eye" : "shield"} />
      <span>{text}</span>
    </p>
  );
}

interface ControlsProps {
  readonly video: HTMLVideoElement | null;
  readonly panel: Panel;
  readonly onPanel: (panel: Panel) => void;
}

function TalkControls({ video, panel, onPanel }: ControlsProps) {
  const { desk } = useSession();
  const { camera, screen } = desk.sends.value;
  const isMuted = desk.isMuted.value;
  const toggle = (wanted: Panel) => onPanel(panel === wanted ? "none" : wanted);
  const canShare = "getDisplayMedia" in (navigator.mediaDevices ?? {});
  return (
    <div class="call-controls">
      <CallButton
        icon={isMuted ? "microphoneOff" : "microphone"}
        label={isMuted ? t("callUnmute") : t("callMute")}
        isOn={!isMuted}
        onClick={() => desk.mute(!isMuted)}
      />
      <CallButton
        icon={camera ? "cameraOff" : "camera"}
        label={camera ? t("callCameraOff") : t("callCameraOn")}
        isActive={camera}
        onClick={() => void desk.toggle("camera")}
      />
      {canShare && (
        <CallButton
          icon={screen ? "screenOff" : "screen"}
          label={screen ? t("callScreenOff") : t("callScreenOn")}
          isActive={screen}
          onClick={() => void desk.toggle("screen")}
        />
      )}
      {video && document.pictureInPictureEnabled && (
        <CallButton
          icon="pip"
          label={t("callPip")}
          onClick={() => void video.requestPictureInPicture().catch(() => undefined)}
        />
      )}
      <CallButton
        icon="devices"
        label={t("callDevices")}
        isExpanded={panel === "devices"}
        onClick={() => toggle("devices")}
      />
      <CallButton icon="path" label={t("callPath")} isExpanded={panel === "path"} onClick={() => toggle("path")} />
      <CallButton icon="hangUp" label={t("callHangUp")} kind="danger" onClick={() => desk.hangUp()} />
    </div>
  );
}
