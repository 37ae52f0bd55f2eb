/** The path of a call, drawn: its messages over two nodes, and its media directly or over a relay. */
import type { Route } from "@chappe/client";
import type { ActiveCall } from "../store/active-call.js";
import { type CallPath, pathOf } from "../store/path.js";
import { direction, t } from "../texts/texts.js";
import { useSession } from "./context.js";

const WIDTH = 360;
/** Where the four stations of a call stand. */
const STATIONS = [46, 136, 224, 314] as const;
const MESSAGES_AT = 96;
const MEDIA_AT = 168;
const ID_LENGTH = 6;

export function PathView({ active, name }: { active: ActiveCall; name: string }) {
  const { network } = useSession();
  const steps = pathOf(active.steps.value);
  // A call outlives its node: then the path begins at the new one, before any message has taken it.
  const path = { ...steps, ownNode: network.node.value?.id ?? steps.ownNode };
  const route = active.route.value;
  const isMirrored = direction.value === "rtl";
  const [you, own, peer, them] = STATIONS.map((x) => (isMirrored ? WIDTH - x : x)) as [number, number, number, number];
  const media = mediaText(route);
  const description = t("pathDescription", {
    own: shortId(path.ownNode),
    peer: shortId(path.peerNode),
    name,
    media,
  });
  return (
    <figure class="path">
      <figcaption>{t("pathTitle")}</figcaption>
      <svg viewBox={`0 0 ${WIDTH} 226`} role="img" aria-label={description}>
        <LookUp from={own} to={peer} path={path} />
        <path class="path-line" data-live={path.sent > 0} d={`M${you} ${MESSAGES_AT}H${own}`} />
        <path class="path-line" data-live={path.peerNode !== undefined} d={`M${own} ${MESSAGES_AT}H${peer}`} />
        <path class="path-line" data-live={path.received > 0} d={`M${peer} ${MESSAGES_AT}H${them}`} />
        <Person x={you} label={t("pathYou")} />
        <Tower x={own} label={t("pathYourNode")} id={path.ownNode} />
        <Tower x={peer} label={t("pathTheirNode")} id={path.peerNode} />
        <Person x={them} label={name} />
        {path.deliveryMs !== undefined && (
          <text x={WIDTH / 2} y={MESSAGES_AT - 10} class="path-time">
            {t("pathMs", { ms: Math.round(path.deliveryMs) })}
          </text>
        )}
        <Media from={you} to={them} route={route} />
        <text x={WIDTH / 2} y={218} class="path-label">
          {[`${t("pathMedia")}: ${media}`, roundTrip(route)].filter(Boolean).join(" · ")}
        </text>
      </svg>
      <p class="path-sealed">{t("pathSealed")}</p>
    </figure>
  );
}

function LookUp({ from, to, path }: { from: number; to: number; path: CallPath }) {
  // The first step may have been taken before anybody listened. Then the time is unknown.
  const isLive = path.peerNode !== undefined;
  const time = path.lookUpMs === undefined ? "" : ` · ${t("pathMs", { ms: Math.round(path.lookUpMs) })}`;
  return (
    <g class="path-lookup" data-live={isLive} data-busy={path.isLookingUp}>
      <path class="path-line" d={`M${from} ${MESSAGES_AT - 22}Q${(from + to) / 2} 16 ${to} ${MESSAGES_AT - 22}`} />
      <circle cx={(from + to) / 2} cy="43" r="4" />
      <text x={(from + to) / 2} y="24" class="path-label">
        {t("pathLookUp")}
        {time}
      </text>
    </g>
  );
}

function Person({ x, label }: { x: number; label: string }) {
  return (
    <g class="path-person">
      <circle cx={x} cy={MESSAGES_AT} r="13" />
      <path d={`M${x - 6} ${MESSAGES_AT + 6}c2-5 10-5 12 0M${x - 3} ${MESSAGES_AT - 3}a3 3 0 1 0 6 0a3 3 0 1 0-6 0`} />
      <text x={x} y={MESSAGES_AT + 31} class="path-label">
        {shorten(label)}
      </text>
    </g>
  );
}

/** A node: one of Chappe's telegraphs. */
function Tower({ x, label, id }: { x: number; label: string; id: string | undefined }) {
  const y = MESSAGES_AT;
  return (
    <g class="path-tower" data-known={id !== undefined}>
      <rect x={x - 15} y={y - 17} width="30" height="34" rx="8" />
      <path
        d={`M${x} ${y + 11}v-15M${x - 5} ${y + 11}h10M${x - 9} ${y - 2}l18-6M${x - 9} ${y - 2}l-2-5M${x + 9} ${y - 8}l2 5`}
      />
      <text x={x} y={y + 31} class="path-label">
        {label}
      </text>
      <text x={x} y={y + 44} class="path-id">
        {id === undefined ? "" : shortId(id)}
      </text>
    </g>
  );
}

function Media({ from, to, route }: { from: number; to: number; route: Route | undefined }) {
  const isRelayed = route !== undefined && isRelay(route);
  const middle = WIDTH / 2;
  const y = MEDIA_AT + 16;
  const start = MESSAGES_AT + 38;
  return (
    <g class="path-media" data-live={route !== undefined}>
      <path class="path-line" d={`M${from} ${start}Q${from} ${y} ${middle} ${y}Q${to} ${y} ${to} ${start}`} />
      {isRelayed && <path class="path-relay" d={`M${middle} ${y - 9}l9 9-9 9-9-9Z`} />}
    </g>
  );
}

function isRelay(route: Route): boolean {
  return route.local.type === "relay" || route.remote.type === "relay";
}

function mediaText(route: Route | undefined): string {
  if (route === undefined) return t("pathNone");
  const way = isRelay(route) ? t("pathRelayed") : t("pathDirect");
  const protocol = route.local.relayProtocol ?? route.local.protocol;
  return `${way} (${protocol.toUpperCase()})`;
}

function roundTrip(route: Route | undefined): string | undefined {
  return route?.roundTripMs === undefined ? undefined : t("pathMs", { ms: Math.round(route.roundTripMs) });
}

function shortId(id: string | undefined): string {
  return id === undefined ? "…" : id.slice(0, ID_LENGTH);
}

function shorten(text: string): string {
  return text.length > 12 ? `${text.slice(0, 11)}…` : text;
}
