/** The pictures of a call. */
import { useEffect, useRef } from "preact/hooks";
import { t } from "../texts/texts.js";
import { useSession } from "./context.js";

interface VideoProps {
  readonly stream: MediaStream;
  readonly label: string;
  readonly kind: "camera" | "screen" | "preview";
  readonly onElement?: (video: HTMLVideoElement | null) => void;
}

/** A picture without its sound, which has its own element. */
export function Video({ stream, label, kind, onElement }: VideoProps) {
  const video = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    if (video.current === null) return;
    video.current.srcObject = stream;
    video.current.play().catch(() => undefined);
    onElement?.(video.current);
    return () => onElement?.(null);
  }, [stream, onElement]);
  useEffect(() => {
    const element = video.current;
    // A small window outlives its element, with the last picture.
    return () => {
      if (document.pictureInPictureElement === element) document.exitPictureInPicture().catch(() => undefined);
    };
  }, []);
  return <video ref={video} class="video" data-kind={kind} muted playsInline aria-label={label} />;
}

/** What this device's camera sends. */
export function Preview() {
  const { desk } = useSession();
  // Read for its changes: another device may have taken the camera's place.
  void desk.changes.value;
  const track = desk.capture.track("camera");
  const stream = useStream(track);
  if (stream === undefined) return null;
  return <Video stream={stream} label={t("callPreview")} kind="preview" />;
}

/** A stream of a track, the same one as long as the track is. */
function useStream(track: MediaStreamTrack | undefined): MediaStream | undefined {
  const last = useRef<MediaStream>();
  if (track === undefined) last.current = undefined;
  else if (last.current?.getTracks()[0] !== track) last.current = new MediaStream([track]);
  return last.current;
}
