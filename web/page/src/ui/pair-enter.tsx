/** Enters what the other person shows, or scans it. */
import { CaptureError, type CaptureFault } from "@chappe/client/capture";
import { scanQr } from "@chappe/client/qr";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { keyOf, t } from "../texts/texts.js";
import { useSession } from "./context.js";
import { Button, Field } from "./controls.js";

export function PairEnter() {
  const { pairing } = useSession();
  const offered = pairing.offered.value;
  const [text, setText] = useState(offered ?? "");
  useEffect(() => {
    if (offered !== undefined) setText(offered);
  }, [offered]);
  const [isScanning, setIsScanning] = useState(false);
  const isBusy = pairing.isBusy.value;
  const stop = useCallback(() => setIsScanning(false), []);
  if (isScanning) return <Scanner onStop={stop} />;
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void pairing.enter(text);
      }}
    >
      <Field label={t("pairEnterLabel")} value={text} isCode isRequired rows={2} onInput={setText} />
      <div class="row">
        <Button kind="primary" type="submit" isDisabled={isBusy}>
          {isBusy ? t("pairBusy") : t("pairEnter")}
        </Button>
        <Button icon="camera" isDisabled={isBusy} onClick={() => setIsScanning(true)}>
          {t("pairScan")}
        </Button>
      </div>
    </form>
  );
}

function Scanner({ onStop }: { onStop: () => void }) {
  const { desk, pairing } = useSession();
  const video = useRef<HTMLVideoElement>(null);
  const [fault, setFault] = useState<CaptureFault>();

  useEffect(() => {
    const abort = new AbortController();
    const scan = async () => {
      const { capture } = desk;
      await capture.openCamera();
      const track = capture.track("camera");
      if (track === undefined || video.current === null || abort.signal.aborted) return;
      video.current.srcObject = new MediaStream([track]);
      await video.current.play();
      const text = await scanQr(video.current, abort.signal);
      onStop();
      await pairing.enter(text);
    };
    scan().catch((error: unknown) => {
      if (error instanceof CaptureError) setFault(error.code);
      else if (!abort.signal.aborted) throw error;
    });
    return () => {
      abort.abort();
      desk.capture.close("camera");
    };
  }, [desk, pairing, onStop]);

  return (
    <div class="scanner">
      {fault ? (
        <p class="fault" role="alert">
          {t(keyOf("notice_refused_camera_", fault))}
        </p>
      ) : (
        <>
          <video ref={video} muted playsInline aria-label={t("callPreview")} />
          <p class="muted">{t("pairScanHint")}</p>
        </>
      )}
      <Button onClick={onStop}>{t("pairScanStop")}</Button>
    </div>
  );
}
