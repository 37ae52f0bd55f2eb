/** The settings of this device. */
import { useState } from "preact/hooks";
import { type FederationFault, faultOf, NO_FEDERATION } from "../store/federation.js";
import type { Theme } from "../store/settings.js";
import { LANGUAGES, type Language, t } from "../texts/texts.js";
import { useApp, useSession } from "./context.js";
import { Button, Select, Switch } from "./controls.js";
import { FederationFields, federationOf, textsOf } from "./federation-form.js";
import { LogSection } from "./log-section.js";
import { AboutSection, ProfileSection, WipeSection } from "./profile-section.js";
import { ScreenFrame, Section } from "./screen.js";

const THEMES: readonly Theme[] = ["system", "light", "dark"];

export function SettingsView() {
  const session = useSession();
  return (
    <ScreenFrame title={t("settingsTitle")}>
      <Look />
      <Quiet />
      <LogSection />
      <Relays />
      <FederationSection />
      <ProfileSection />
      <WipeSection />
      <AboutSection />
      <Button icon="question" onClick={() => session.show({ name: "diagnosis" })}>
        {t("settingsWhy")}
      </Button>
    </ScreenFrame>
  );
}

function Look() {
  const { settings } = useApp();
  const { theme, language } = settings.value.value;
  const languages = (Object.keys(LANGUAGES) as Language[]).map((value) => ({
    value,
    text: LANGUAGES[value],
  }));
  return (
    <Section title={t("settingsLook")}>
      <Select
        label={t("settingsTheme")}
        value={theme}
        options={THEMES.map((value) => ({ value, text: t(`settingsTheme_${value}`) }))}
        onChange={(value) => void settings.change({ theme: value as Theme })}
      />
      <Select
        label={t("settingsLanguage")}
        value={language}
        options={[{ value: "system", text: t("settingsLanguageSystem") }, ...languages]}
        onChange={(value) => void settings.change({ language: value })}
      />
    </Section>
  );
}

function Quiet() {
  const { settings, log } = useApp();
  const { rings, showsCalls, keepsLog } = settings.value.value;
  const show = async (isOn: boolean) => {
    await settings.change({ showsCalls: isOn });
    if (isOn && "Notification" in globalThis) await Notification.requestPermission();
  };
  const keep = async (isOn: boolean) => {
    await settings.change({ keepsLog: isOn });
    if (!isOn) await log.clear();
  };
  return (
    <Section title={t("settingsQuiet")}>
      <p class="help">{t("settingsQuietLead")}</p>
      <Switch label={t("settingsRings")} isOn={rings} onChange={(isOn) => void settings.change({ rings: isOn })} />
      <Switch label={t("settingsShows")} isOn={showsCalls} onChange={(isOn) => void show(isOn)} />
      <Switch label={t("settingsKeepsLog")} isOn={keepsLog} onChange={(isOn) => void keep(isOn)} />
    </Section>
  );
}

/** Who may see this device's address, and taking that back. */
function Relays() {
  const { book, client } = useSession();
  const direct = book.contacts.value.filter((contact) => contact.isDirectAllowed);
  return (
    <Section title={t("settingsRelay")}>
      {direct.length === 0 && <p class="help">{t("settingsRelayNone")}</p>}
      <ul class="plain">
        {direct.map(({ id, name }) => (
          <li key={id} class="row">
            <bdi>{name}</bdi>
            <Button onClick={() => void client.allowDirect(id, false)}>{t("settingsRelayStop")}</Button>
          </li>
        ))}
      </ul>
    </Section>
  );
}

function FederationSection() {
  const app = useApp();
  const federation = app.settings.value.value.federation ?? NO_FEDERATION;
  const [texts, setTexts] = useState(() => textsOf(federation));
  const [fault, setFault] = useState<FederationFault>();
  const save = () => {
    const wanted = federationOf(texts);
    const found = faultOf(wanted);
    setFault(found);
    if (found === undefined) void app.changeFederation(wanted);
  };
  return (
    <Section title={t("settingsFederation")}>
      <FederationFields texts={texts} onChange={setTexts} fault={fault} />
      <Button onClick={save}>{t("save")}</Button>
    </Section>
  );
}
