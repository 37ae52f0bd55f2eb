/** Which microphone, camera and loudspeaker. */
import { useEffect, useState } from "preact/hooks";
import { t } from "../texts/texts.js";
import { useSession } from "./context.js";
import { Select } from "./controls.js";

type Devices = Awaited<ReturnType<ReturnType<typeof useSession>["desk"]["capture"]["devices"]>>;

export function DeviceMenu() {
  const { desk } = useSession();
  const [devices, setDevices] = useState<Devices>();
  const [output, setOutput] = useState("");
  const change = desk.changes.value;

  // biome-ignore lint/correctness/useExhaustiveDependencies: the names of devices appear once one is open
  useEffect(() => {
    const read = () => void desk.capture.devices().then(setDevices, () => undefined);
    read();
    navigator.mediaDevices?.addEventListener("devicechange", read);
    return () => navigator.mediaDevices?.removeEventListener("devicechange", read);
  }, [desk, change]);

  if (devices === undefined) return null;
  const inUse = (source: "microphone" | "camera") => desk.capture.track(source)?.getSettings().deviceId ?? "";
  const { microphones, cameras, outputs } = devices;
  return (
    <section class="card devices" aria-label={t("callDevices")}>
      {microphones.length > 0 && (
        <Select
          label={t("callMicrophone")}
          value={inUse("microphone")}
          options={optionsOf(microphones)}
          onChange={(id) => void desk.open("microphone", id)}
        />
      )}
      {cameras.length > 0 && (
        <Select
          label={t("callCamera")}
          value={inUse("camera")}
          options={optionsOf(cameras)}
          onChange={(id) => void desk.open("camera", id)}
        />
      )}
      {outputs.length > 0 && desk.sound.canChooseOutput && (
        <Select
          label={t("callOutput")}
          value={output || (outputs[0]?.deviceId ?? "")}
          options={optionsOf(outputs)}
          onChange={(id) => {
            setOutput(id);
            void desk.sound.setOutput(id).catch(() => undefined);
          }}
        />
      )}
    </section>
  );
}

function optionsOf(devices: readonly MediaDeviceInfo[]) {
  return devices.map(({ deviceId, label }, index) => ({ value: deviceId, text: label || String(index + 1) }));
}
