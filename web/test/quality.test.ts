/** What follows from a connection's statistics: quality, lost media, and whether a picture fits. */
import { describe, expect, test } from "vitest";
import { QUALITY_WINDOW, type Quality, QualityMeter } from "../src/media/quality.js";
import { routeOf, type Sample, sampleOf } from "../src/media/statistics.js";
import { VideoLimiter } from "../src/media/video-limiter.js";
import { LOST_AFTER, Watchdog } from "../src/media/watchdog.js";
import chromium from "./fixtures/statistics-chromium.json" with { type: "json" };
import firefox from "./fixtures/statistics-firefox.json" with { type: "json" };

const UNKNOWN = sampleOf([]);

describe("the reports of the engines, recorded on a good connection,", () => {
  test("of Chromium 156 have one form", () => {
    expect(sampleOf(chromium)).toEqual({
      packetsReceived: 779,
      packetsLost: 0,
      soundPacketsReceived: 457,
      soundPacketsLost: 0,
      samplesReceived: 433_920,
      samplesConcealed: 1_200,
      freezes: 0,
      roundTripMs: 1,
      lossOfSentSound: 0,
      lossOfSentVideo: 0,
      availableBitrate: 3_533_142,
      isBandwidthLimited: true,
    });
    expect(routeOf(chromium)).toMatchObject({ local: { type: "host", protocol: "udp" }, roundTripMs: 1 });
  });

  test("of Firefox 153 have it too: what it does not measure is unknown", () => {
    expect(sampleOf(firefox)).toEqual({
      packetsReceived: 949,
      packetsLost: 0,
      soundPacketsReceived: 433,
      soundPacketsLost: 0,
      samplesReceived: 412_320,
      samplesConcealed: 960,
      freezes: 0,
      roundTripMs: 2.731,
      lossOfSentSound: 0,
      lossOfSentVideo: 0,
      availableBitrate: undefined,
      isBandwidthLimited: undefined,
    });
    expect(routeOf(firefox)).toMatchObject({ local: { type: "host", protocol: "udp" }, roundTripMs: 2.731 });
  });
});

/** The sample after each window in which this happened. */
function samples(windows: readonly Partial<Sample>[]): Sample[] {
  const counters = ["packetsReceived", "packetsLost", "samplesReceived", "samplesConcealed", "freezes"] as const;
  let last: Sample = { ...UNKNOWN, packetsReceived: 0, packetsLost: 0 };
  return windows.map((window) => {
    const totals = Object.fromEntries(
      counters.filter((key) => key in window).map((key) => [key, (last[key] ?? 0) + (window[key] ?? 0)]),
    );
    last = { ...last, ...window, ...totals };
    return last;
  });
}

/** The quality after each window. */
function judge(windows: readonly Partial<Sample>[]): (Quality | undefined)[] {
  const meter = new QualityMeter();
  meter.add({ ...UNKNOWN, packetsReceived: 0, packetsLost: 0, samplesReceived: 0, samplesConcealed: 0, freezes: 0 });
  return samples(windows).map((sample) => {
    meter.add(sample);
    return meter.quality;
  });
}

const window = (lost: number, roundTripMs = 40): Partial<Sample> => ({
  packetsReceived: 100 - lost,
  packetsLost: lost,
  roundTripMs,
});

describe("quality", () => {
  test("of a sound call without faults is good, however few bits it needs", () => {
    expect(judge([window(0), window(0), window(0)])).toEqual(["good", "good", "good"]);
  });

  test.each<[string, Partial<Sample>, Quality]>([
    ["2 % loss", window(2), "good"],
    ["3 % loss", window(3), "fair"],
    ["8 % loss", window(8), "poor"],
    ["199 ms", window(0, 199), "good"],
    ["200 ms", window(0, 200), "fair"],
    ["400 ms", window(0, 400), "poor"],
    ["3 % of the sound made up", { ...window(0), samplesReceived: 100, samplesConcealed: 3 }, "fair"],
    ["10 % of the sound made up", { ...window(0), samplesReceived: 100, samplesConcealed: 10 }, "poor"],
    ["a freeze", { ...window(0), freezes: 1 }, "fair"],
    ["two freezes", { ...window(0), freezes: 2 }, "poor"],
    ["a picture that lacks bandwidth", { ...window(0), isBandwidthLimited: true, availableBitrate: 300_000 }, "fair"],
    ["almost no bandwidth", { ...window(0), isBandwidthLimited: true, availableBitrate: 100_000 }, "poor"],
    ["a picture that is being improved", { ...window(0), isBandwidthLimited: true, availableBitrate: 3e6 }, "good"],
    ["a low rate that nothing needs", { ...window(0), isBandwidthLimited: false, availableBitrate: 40_000 }, "good"],
  ])("with %s is %s", (_, one, quality) => {
    expect(judge([one, one]).at(-1)).toBe(quality);
  });

  test("changes when two of three windows agree", () => {
    const windows = [window(0), window(0), window(20), window(0), window(20), window(20)];
    expect(judge(windows)).toEqual(["good", "good", "good", "good", "poor", "poor"]);
  });

  test("says nothing of what no engine has reported", () => {
    const meter = new QualityMeter();
    expect([meter.add(UNKNOWN), meter.add(UNKNOWN), meter.quality]).toEqual([false, false, undefined]);
  });

  test("does not take the counters of a new connection for those of the old one", () => {
    const meter = new QualityMeter();
    for (const sample of samples([window(0), window(0), window(0)])) meter.add(sample);
    meter.restart();
    meter.add({ ...UNKNOWN, packetsReceived: 0, packetsLost: 0, roundTripMs: 40 });
    meter.add({ ...UNKNOWN, packetsReceived: 100, packetsLost: 0, roundTripMs: 40 });
    expect(meter.quality).toBe("good");
  });

  test("is judged by the thresholds of an app", () => {
    const strict = new QualityMeter({
      roundTripMs: [20, 30],
      loss: [0.03, 0.08],
      concealed: [0.03, 0.1],
      freezes: [1, 2],
      bitrate: [500_000, 200_000],
    });
    for (const sample of samples([window(0), window(0), window(0)])) strict.add(sample);
    expect(strict.quality).toBe("poor");
  });

  test("has windows of three seconds", () => expect(QUALITY_WINDOW).toBe(3_000));
});

describe("lost media", () => {
  /** The changes that the watchdog reports, with their times, for numbers of packets every 250 ms. */
  function watch(
    packets: readonly (number | undefined)[],
    isExpected: (at: number) => boolean | undefined = () => true,
    isConnected = false,
  ) {
    const watchdog = new Watchdog();
    return packets.flatMap((count, index) => {
      const at = index * 250;
      const change = watchdog.observe({ packets: count, isExpected: isExpected(at), isConnected }, at);
      return change === undefined ? [] : [[change, at]];
    });
  }

  const flowing = (from: number, count: number) => Array.from({ length: count }, (_, index) => from + 12 * index);
  const still = (at: number, count: number) => Array<number>(count).fill(at);

  test("is noticed after 1.5 s without a packet, and its return at the first one", () => {
    const last = 12 * 7;
    expect(watch([...flowing(0, 8), ...still(last, 10), last + 12])).toEqual([
      ["quiet", 7 * 250 + 750],
      ["lost", 7 * 250 + LOST_AFTER],
      ["back", 18 * 250],
    ]);
  });

  test("is not what a pause of less is", () => {
    const quiet = [["quiet", 7 * 250 + 750]];
    expect(watch([...flowing(0, 8), ...still(84, 5), ...flowing(96, 8)])).toEqual(quiet);
    expect(watch([...flowing(0, 8), ...still(84, 2), ...flowing(96, 8)])).toEqual([]);
  });

  test("is not what has not begun, unless the other side has told that it has", () => {
    const none = [undefined, undefined, ...still(0, 20)];
    expect(watch(none, () => undefined)).toEqual([]);
    expect(watch(none).map(([change]) => change)).toEqual(["quiet", "lost"]);
  });

  test("is not what the other side has switched off", () => {
    expect(watch([...flowing(0, 8), ...still(84, 20)], (at) => at < 2_000)).toEqual([]);
  });

  test("is found when a device wakes from sleep", () => {
    const watchdog = new Watchdog();
    const seen = { isExpected: true, isConnected: true };
    watchdog.observe({ packets: 0, ...seen }, 0);
    watchdog.observe({ packets: 50, ...seen }, 1_000);
    expect(watchdog.observe({ packets: 50, ...seen }, 600_000)).toBe("lost");
  });

  test("is not a slow timer of a hidden tab", () => {
    const watchdog = new Watchdog();
    for (let minute = 0; minute < 5; minute++) {
      const seen = { packets: minute * 3_000, isExpected: true, isConnected: true };
      expect(watchdog.observe(seen, minute * 60_000)).toBeUndefined();
    }
  });

  test("is the other side's silence if the connection works all the same: that ends no call", () => {
    const silent = [...flowing(0, 8), ...still(84, 200)];
    expect(watch(silent, () => true, true)).toEqual([
      ["quiet", 7 * 250 + 750],
      ["lost", 7 * 250 + LOST_AFTER],
      ["back", 7 * 250 + 10_000],
    ]);
    expect(watch(silent, () => true, false).map(([change]) => change)).toEqual(["quiet", "lost"]);
  });
});

describe("the picture", () => {
  const ALL = Number.POSITIVE_INFINITY;
  const LOW = 150_000;

  /** When the limit changes and to what, for samples of every second. */
  function changes(seconds: number, sample: (second: number, limit: number) => Partial<Sample>, hasPicture = true) {
    const limiter = new VideoLimiter();
    const changed: [second: number, limit: number][] = [];
    for (let second = 0; second < seconds; second++) {
      const seen = { ...UNKNOWN, ...sample(second, limiter.maxBitrate) };
      if (limiter.observe(seen, hasPicture, second * 1_000)) changed.push([second, limiter.maxBitrate]);
    }
    return changed;
  }

  test("is left out below 150 kbit/s, and tried again after ten good seconds, at first with little", () => {
    const narrow = (second: number) => ({ availableBitrate: second < 11 ? 60_000 : 900_000, roundTripMs: 50 });
    expect(changes(60, narrow)).toEqual([
      [2, 0],
      [13, LOW],
      [24, ALL],
    ]);
  });

  test("is left out at once if most is lost, and gets less if less is lost", () => {
    expect(changes(2, () => ({ lossOfSentVideo: 0.7 }))).toEqual([[1, 0]]);
    expect(changes(2, () => ({ lossOfSentVideo: 0.4 }))).toEqual([[1, LOW]]);
    expect(changes(3, () => ({ lossOfSentSound: 0.4 }))).toEqual([[1, LOW]]);
    expect(changes(9, () => ({ lossOfSentVideo: 0.04, roundTripMs: 200 }))).toEqual([]);
  });

  test("gets less while it fills a queue, and is left out only if that does not help", () => {
    const queued = { lossOfSentVideo: 0.2, roundTripMs: 200 };
    expect(changes(60, (_, limit) => (limit === ALL ? queued : { roundTripMs: 200 }))).toEqual([
      [2, LOW],
      [13, ALL],
      [16, LOW],
      [37, ALL],
      [40, LOW],
    ]);
    expect(changes(60, () => queued)).toEqual([[2, LOW]]);
    expect(changes(60, () => ({ ...queued, roundTripMs: 900 }))).toEqual([
      [2, LOW],
      [5, 0],
    ]);
    expect(changes(60, () => ({ ...queued, roundTripMs: 50 }))).toEqual([]);
  });

  test("that is left out leaves its last report behind, which does not count", () => {
    const reported = (second: number) => ({ lossOfSentVideo: 0.7, lossOfSentSound: second < 5 ? 0.7 : 0 });
    expect(changes(16, reported)).toEqual([
      [1, 0],
      [15, LOW],
    ]);
  });

  test("that a person turns off leaves its last report behind, too", () => {
    const limiter = new VideoLimiter();
    const lossy = { ...UNKNOWN, lossOfSentVideo: 0.35, lossOfSentSound: 0 };
    const limits = Array.from({ length: 20 }, (_, second) => {
      limiter.observe(lossy, second < 2, second * 1_000);
      return limiter.maxBitrate;
    });
    expect(limits[1]).toBe(LOW);
    expect(limits.at(-1)).toBe(ALL);
  });

  test("of one line that has ended does not count for the other: reports last six seconds", () => {
    const report = (id: string, timestamp: number, fractionLost: number) => ({
      ...{ id, type: "remote-inbound-rtp", kind: "video", timestamp, fractionLost },
    });
    const entries = [report("camera", 1_000, 0.7), report("screen", 7_001, 0.01)];
    expect(sampleOf(entries).lossOfSentVideo).toBe(0.01);
    expect(sampleOf(entries.slice(0, 1)).lossOfSentVideo).toBe(0.7);
  });

  test("is not tried while the sound suffers", () => {
    expect(changes(60, (_, limit) => ({ lossOfSentSound: limit === 0 ? 0.05 : 0.7 }))).toEqual([[1, 0]]);
  });

  test("is tried ever less often where it keeps failing", () => {
    const failing = changes(400, (_, limit) => (limit > 0 ? { availableBitrate: 60_000 } : { roundTripMs: 50 }));
    const tried = failing.filter(([, limit]) => limit > 0).map(([second]) => second);
    const pauses = tried.slice(1).map((second, index) => second - (tried[index] ?? 0));
    expect(pauses).toEqual([...pauses].sort((a, b) => a - b));
    expect(pauses.at(-1)).toBeGreaterThan(60);
  });

  test("stays while nothing is known, and while there is none", () => {
    expect(changes(30, () => ({}))).toEqual([]);
    expect(changes(30, () => ({ availableBitrate: 1_000 }), false)).toEqual([]);
  });
});
