/** The profile: its name, a copy of it, and its end. */
import { ProfileFileError } from "@chappe/client";
import { useEffect, useState } from "preact/hooks";
import { scriptHash } from "../script-hash.js";
import { keyOf, t } from "../texts/texts.js";
import { useApp, useSession } from "./context.js";
import { Button, Field } from "./controls.js";
import { Section } from "./screen.js";

export function ProfileSection() {
  const app = useApp();
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
      <dl>
        <dt>{t("settingsName")}</dt>
        <dd>
          <bdi>{app.settings.value.value.name}</bdi>
        </dd>
      </dl>
      <p class="help">{t("settingsNameHelp")}</p>
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
