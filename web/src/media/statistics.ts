/**
 * One form for what the engines report about a call's media.
 *
 * Pure. Engines leave out what they do not measure: that is `undefined` here, and never 0.
 */

/** An entry of an `RTCStatsReport`. */
type Entry = Readonly<Record<string, unknown>>;

/** The other side reports the sound every five seconds. The last report of a line that has ended stays. In milliseconds. */
const REPORT_LASTS = 6_000;

/** The media of a call at one moment. Counters count from the start of the connection. */
export interface Sample {
  /** Packets of sound and video that have arrived, and those that were lost on the way. */
  readonly packetsReceived: number | undefined;
  readonly packetsLost: number | undefined;
  readonly soundPacketsReceived: number | undefined;
  readonly soundPacketsLost: number | undefined;
  /** Samples of sound that were played, and those that were made up because a packet was missing. */
  readonly samplesReceived: number | undefined;
  readonly samplesConcealed: number | undefined;
  /** How often the picture of the camera or the screen stood still. */
  readonly freezes: number | undefined;
  /** The round trip to the other side, in milliseconds. */
  readonly roundTripMs: number | undefined;
  /** The part of this side's packets that the other side recently did not get, from 0 to 1. */
  readonly lossOfSentSound: number | undefined;
  readonly lossOfSentVideo: number | undefined;
  /** What the connection can carry to the other side, in bit/s. Chromium alone estimates it. */
  readonly availableBitrate: number | undefined;
  /** Whether this side sends a worse picture because the bandwidth does not suffice. */
  readonly isBandwidthLimited: boolean | undefined;
}

/** Where one end of the media's path is. */
export interface RouteEnd {
  readonly type: RTCIceCandidateType;
  readonly protocol: "udp" | "tcp";
  /** How a relay is reached, if this end is one. */
  readonly relayProtocol: "udp" | "tcp" | "tls" | undefined;
  readonly address: string | undefined;
}

/** The path of the media. */
export interface Route {
  readonly local: RouteEnd;
  readonly remote: RouteEnd;
  readonly roundTripMs: number | undefined;
  /**
   * The addresses of this device that the other side was told, or sees packets from. Empty if all goes through relays. They
   * are those of the candidates that exist, whatever the settings say.
   */
  readonly visibleAddresses: readonly string[];
}

/** The entries of a report that concern the media, in one form. */
export function sampleOf(report: Iterable<Entry>): Sample {
  const entries = [...report];
  const inbound = entries.filter(({ type }) => type === "inbound-rtp");
  const sound = inbound.filter(({ kind }) => kind === "audio");
  const video = inbound.filter(({ kind }) => kind === "video");
  const outbound = entries.filter(({ type, kind }) => type === "outbound-rtp" && kind === "video");
  const pair = pairInUse(entries);
  const reasons = outbound.map((entry) => entry.qualityLimitationReason).filter((reason) => reason !== undefined);
  const oldest = (largest(entries, "timestamp") ?? 0) - REPORT_LASTS;
  const reportsOf = (media: string) =>
    entries.filter((entry) => isReport(entry) && entry.kind === media && (entry.timestamp as number) >= oldest);
  return {
    packetsReceived: sum(inbound, "packetsReceived"),
    packetsLost: sum(inbound, "packetsLost"),
    soundPacketsReceived: sum(sound, "packetsReceived"),
    soundPacketsLost: sum(sound, "packetsLost"),
    samplesReceived: sum(sound, "totalSamplesReceived"),
    samplesConcealed: concealed(sound),
    freezes: sum(video, "freezeCount"),
    roundTripMs: roundTrip(pair, entries),
    lossOfSentSound: largest(reportsOf("audio"), "fractionLost"),
    lossOfSentVideo: largest(reportsOf("video"), "fractionLost"),
    availableBitrate: number(pair?.availableOutgoingBitrate),
    isBandwidthLimited: reasons.length === 0 ? undefined : reasons.includes("bandwidth"),
  };
}

/** The path in use, or `undefined` before there is one. */
export function routeOf(report: Iterable<Entry>): Route | undefined {
  const entries = [...report];
  const pair = pairInUse(entries);
  const find = (id: unknown) => entries.find((entry) => entry.id === id);
  const local = pair && find(pair.localCandidateId);
  const remote = pair && find(pair.remoteCandidateId);
  if (local === undefined || remote === undefined) return undefined;
  const visible = entries
    .filter(({ type, candidateType }) => type === "local-candidate" && candidateType !== "relay")
    .map(addressOf)
    // A name instead of an address (mDNS) tells the other side none, and neither does that of each machine itself.
    .filter((address) => address !== undefined && !/\.local$|^127\.|^::1$/.test(address));
  return {
    local: endOf(local),
    remote: endOf(remote),
    roundTripMs: roundTrip(pair, entries),
    visibleAddresses: [...new Set(visible as string[])],
  };
}

/** The candidate pair in use. Chromium and Safari name it in the transport, Firefox marks it. */
function pairInUse(entries: readonly Entry[]): Entry | undefined {
  const selected = entries.find(({ type }) => type === "transport")?.selectedCandidatePairId;
  const pairs = entries.filter(({ type }) => type === "candidate-pair");
  return (
    pairs.find(({ id }) => id === selected) ??
    pairs.find(({ selected: isSelected }) => isSelected === true) ??
    pairs.find(({ nominated, state }) => nominated === true && state === "succeeded")
  );
}

/** The round trip in milliseconds. Firefox reports 0 for a pair that it has not measured, and knows it by media reports. */
function roundTrip(pair: Entry | undefined, entries: readonly Entry[]): number | undefined {
  const measured = number(pair?.currentRoundTripTime) || largest(entries.filter(isReport), "roundTripTime");
  return measured === undefined ? undefined : measured * 1000;
}

/** Whether an entry is what the other side has reported of this side's packets. */
function isReport({ type }: Entry): boolean {
  return type === "remote-inbound-rtp";
}

function endOf(candidate: Entry): RouteEnd {
  const { candidateType, protocol, relayProtocol } = candidate;
  return { type: candidateType, protocol, relayProtocol, address: addressOf(candidate) } as RouteEnd;
}

function addressOf({ address }: Entry): string | undefined {
  return typeof address === "string" && address !== "" ? address : undefined;
}

/** Concealed sound that should have been heard: not that in which the other side was silent on purpose. */
function concealed(sound: readonly Entry[]): number | undefined {
  const all = sum(sound, "concealedSamples");
  return all === undefined ? undefined : all - (sum(sound, "silentConcealedSamples") ?? 0);
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function values(entries: readonly Entry[], field: string): number[] {
  return entries.map((entry) => number(entry[field])).filter((value) => value !== undefined);
}

function sum(entries: readonly Entry[], field: string): number | undefined {
  const all = values(entries, field);
  return all.length === 0 ? undefined : all.reduce((total, value) => total + value, 0);
}

function largest(entries: readonly Entry[], field: string): number | undefined {
  const all = values(entries, field);
  return all.length === 0 ? undefined : Math.max(...all);
}

/** By how much a counter has increased. */
export function increase(from: number | undefined, to: number | undefined): number | undefined {
  return from === undefined || to === undefined ? undefined : Math.max(to - from, 0);
}

/** The part of a whole, from 0 to 1. */
export function part(of: number | undefined, whole: number | undefined): number | undefined {
  return of === undefined || whole === undefined || whole === 0 ? undefined : of / whole;
}

/** The part of packets that was lost. */
export function lossOf(lost: number | undefined, arrived: number | undefined): number | undefined {
  return lost === undefined || arrived === undefined ? undefined : part(lost, lost + arrived);
}
