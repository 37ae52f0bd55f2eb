/** The page outside of calls: the contacts at the side, and a screen. On a phone one of them. */
import type { ContactInfo } from "@chappe/client";
import type { Screen, Session } from "../store/session.js";
import { t } from "../texts/texts.js";
import { Avatar } from "./avatar.js";
import { ContactView } from "./contact-view.js";
import { useApp, useSession } from "./context.js";
import { Button, IconButton } from "./controls.js";
import { HomeView } from "./home-view.js";
import { Icon, Logo } from "./icon.js";
import { Lazy } from "./lazy.js";
import { StatusHelp, StatusLine } from "./status.js";
import { OfferedFederation } from "./welcome.js";
import { WordsView } from "./words-view.js";

const loadPair = async () => (await import("./pair-view.js")).PairView;
const loadSettings = async () => (await import("./settings-view.js")).SettingsView;
const loadDiagnosis = async () => (await import("./diagnosis-view.js")).DiagnosisView;

export function Shell() {
  const session = useSession();
  const screen = session.screen.value;
  return (
    <div class="shell" data-screen={screen.name}>
      <Sidebar />
      <main class="pane">
        <OtherFederation />
        <ScreenView screen={screen} session={session} />
      </main>
    </div>
  );
}

function ScreenView({ screen, session }: { screen: Screen; session: Session }) {
  switch (screen.name) {
    case "home":
      return <HomeView />;
    case "contact": {
      const contact = session.book.find(screen.id);
      return contact === undefined ? <HomeView /> : <ContactView key={contact.id} contact={contact} />;
    }
    case "words": {
      const contact = session.book.find(screen.id);
      return contact === undefined ? <HomeView /> : <WordsView contact={contact} isNew={screen.isNew} />;
    }
    case "pair":
      return <Lazy key={screen.name} load={loadPair} props={{}} />;
    case "settings":
      return <Lazy key={screen.name} load={loadSettings} props={{}} />;
    case "diagnosis":
      return <Lazy key={screen.name} load={loadDiagnosis} props={{}} />;
  }
}

function Sidebar() {
  const session = useSession();
  const contacts = session.book.contacts.value;
  return (
    <div class="sidebar">
      <header class="sidebar-top">
        <Logo />
        <p class="brand-name">{t("appName")}</p>
        <IconButton icon="settings" label={t("settingsTitle")} onClick={() => session.show({ name: "settings" })} />
      </header>
      <StatusLine />
      <StatusHelp />
      <nav aria-label={t("contactsTitle")} class="contacts">
        <h2>{t("contactsTitle")}</h2>
        {contacts.length === 0 && <p class="empty">{t("contactsEmpty")}</p>}
        <ul>
          {contacts.map((contact) => (
            <li key={contact.id}>
              <ContactRow contact={contact} />
            </li>
          ))}
        </ul>
      </nav>
      <Button kind="primary" icon="add" onClick={() => session.show({ name: "pair" })}>
        {t("contactsAdd")}
      </Button>
    </div>
  );
}

function ContactRow({ contact }: { contact: ContactInfo }) {
  const { book, screen, show } = useRow();
  const isOpen = screen.name === "contact" && screen.id === contact.id;
  const isMissed = book.missed.value.has(contact.id);
  const note = contact.isBlocked ? t("contactsBlocked") : isMissed ? t("contactsMissed") : undefined;
  return (
    <button
      type="button"
      class="contact-row"
      aria-current={isOpen ? "page" : undefined}
      onClick={() => show({ name: "contact", id: contact.id })}
    >
      <Avatar id={contact.id} name={contact.name} />
      <span class="contact-name">
        <bdi>{contact.name}</bdi>
        {note && (
          <small data-missed={isMissed}>
            {isMissed && <Icon name="missed" />}
            {note}
          </small>
        )}
      </span>
    </button>
  );
}

function useRow() {
  const session = useSession();
  return { book: session.book, screen: session.screen.value, show: (screen: Screen) => session.show(screen) };
}

/** The page's address names another federation than the one in use. */
function OtherFederation() {
  const app = useApp();
  const offered = app.offered.value;
  if (offered === undefined) return null;
  return (
    <section class="banner" aria-live="polite">
      <p>{t("federationOffered")}</p>
      <OfferedFederation federation={offered} />
      <div class="row">
        <Button kind="primary" onClick={() => void app.changeFederation(offered)}>
          {t("federationUse")}
        </Button>
        <Button
          onClick={() => {
            app.offered.value = undefined;
          }}
        >
          {t("federationKeep")}
        </Button>
      </div>
    </section>
  );
}
