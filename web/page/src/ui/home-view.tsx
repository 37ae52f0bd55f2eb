/** The empty pane beside the contacts: a line of telegraphs. */
import { t } from "../texts/texts.js";
import { useSession } from "./context.js";

export function HomeView() {
  const session = useSession();
  const isEmpty = session.book.contacts.value.length === 0;
  return (
    <div class="home">
      <svg viewBox="0 0 480 220" aria-hidden="true" class="telegraphs">
        <path class="far" d="M0 168c60-40 110-44 170-18s120 20 180-8 90-20 130-6v84H0Z" />
        <path class="near" d="M0 190c70-30 130-20 200-6s150 20 280-14v50H0Z" />
        <g class="tower">
          <path d="M86 176v-56M74 176h24M62 126l48-14M62 126l-6-18M110 112l8 16" />
          <path d="M240 186v-72M226 186h28M210 108l60 12M210 108l-10 20M270 120l4-24" />
          <path d="M400 172v-52M389 172h22M378 116l44 8M378 116l-4 18M422 124l8-16" />
        </g>
        <path class="sight" d="M92 118C140 92 190 92 234 112M246 112c50-24 100-20 148 4" />
      </svg>
      <p>{isEmpty ? t("contactsEmpty") : t("contactsChoose")}</p>
    </div>
  );
}
