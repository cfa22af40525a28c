// What the script of a Node contender shares; see harness.py.
import IORedis from "ioredis";

const FIRST = Number(process.env.BENCH_FIRST ?? 0);
const LAST = Number(process.env.BENCH_LAST ?? 0);
let runs = 0;
let notes;

export function createClient() {
  return new IORedis(process.env.BENCH_URL, { maxRetriesPerRequest: null });
}

export function payload(number) {
  return {
    action: "resize",
    image: `uploads/2024/11/${String(number).padStart(10, "0")}.png`,
    width: 640,
    height: 480,
    quality: 0.85,
    tags: ["thumbnail", "square"],
    requested_by: "user-000042",
    note: "x".repeat(21),
  };
}

export function ran() {
  runs += 1;
  if (runs === FIRST || runs === LAST) {
    notes ??= createClient();
    notes.hset("bench:marks", String(runs), String(Date.now() / 1000));
  }
  return true;
}

export function report(figures) {
  console.log(JSON.stringify(figures));
}
