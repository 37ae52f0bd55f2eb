/** The profile: its name, a copy of it, and its end. */
import { ProfileFileError } from "@chappe/client";
import { useEffect, useState } from "preact/hooks";
import { scriptHash } from "../script-hash.js";
import { keyOf, t } from "../texts/texts.js";
import { useApp, useSession } from "./context.js";
import { Button, Field, MAX_NAME } from "./controls.js";
import { Section } from "./screen.js";

/** The name that new contacts see. */
function OwnName() {
  const { settings } = useApp();
  const { client } = useSession();
  const stored = client.name;
  const [name, setName] = useState(stored || settings.value.value.name);
  // Without a profile in use, as in a second tab, nothing can be changed.
  const isChanged = stored !== "" && name.trim() !== "" && name !== stored;
  const [isFailed, setIsFailed] = useState(false);
  const save = async () => {
    setIsFailed(false);
    try {
      await client.setName(name);
    } catch {
      return setIsFailed(true);
    }
    setName(client.name);
    await settings.change({ name: client.name });
  };
  return (
    <>
      <form
        class="row field-row"
        onSubmit={(event) => {
          event.preventDefault();
          if (isChanged) void save();
        }}
      >
        <Field
          label={t("settingsName")}
          help={t("settingsNameHelp")}
          value={name}
          onInput={setName}
          maxLength={MAX_NAME}
        />
        {isChanged && <Button type="submit">{t("save")}</Button>}
      </form>
      {isFailed && (
        <p class="fault" role="alert">
          {t("settingsNameFault")}
        </p>
      )}
    </>
  );
}

export function ProfileSection() {
  const { client } = useSession();
  const [passphrase, setPassphrase] = useState("");
  const [fault, setFault] = useState<ProfileFileError["code"]>();
  const save = async () => {
    try {
      download(await client.exportProfile(passphrase));
      setFault(undefined);
    } catch (error) {
      if (!(error instanceof ProfileFileError)) throw error;
      setFault(error.code);
    }
  };
  return (
    <Section title={t("settingsProfile")}>
      <OwnName />
      <form
        class="row field-row"
        onSubmit={(event) => {
          event.preventDefault();
          void save();
        }}
      >
        <Field
          label={t("settingsExportPassphrase")}
          help={t("settingsExportHelp")}
          type="password"
          value={passphrase}
          isRequired
          onInput={setPassphrase}
        />
        <Button type="submit">{t("settingsExport")}</Button>
      </form>
      {fault && (
        <p class="fault" role="alert">
          {t(keyOf("settingsExportFault_", fault))}
        </p>
      )}
    </Section>
  );
}

/** Gives a file to the person. Its name says nothing. */
function download(text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = "profile.txt";
  link.click();
  URL.revokeObjectURL(url);
}

export function WipeSection() {
  const app = useApp();
  const [isAsking, setIsAsking] = useState(false);
  return (
    <Section title={t("settingsWipe")}>
      <p class="help">{t("settingsWipeHelp")}</p>
      <p class="help">{t("settingsPanic")}</p>
      {isAsking ? (
        <div class="row">
          <Button kind="danger" icon="remove" onClick={() => void app.startOver()}>
            {t("settingsWipeSure")}
          </Button>
          <Button onClick={() => setIsAsking(false)}>{t("cancel")}</Button>
        </div>
      ) : (
        <Button kind="danger" icon="remove" onClick={() => setIsAsking(true)}>
          {t("settingsWipe")}
        </Button>
      )}
    </Section>
  );
}

export function AboutSection() {
  const [hash, setHash] = useState<string>();
  useEffect(() => {
    void scriptHash().then(setHash);
  }, []);
  if (hash === undefined) return null;
  return (
    <Section title={t("settingsAbout")}>
      <p>{t("settingsScript")}</p>
      <p class="code" dir="ltr">
        {hash}
      </p>
      <p class="help">{t("settingsScriptHelp")}</p>
    </Section>
  );
}
