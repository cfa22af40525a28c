// BullMQ: one Node process, a hundred jobs at once, results kept on the job.
import { Queue, QueueEvents, Worker } from "bullmq";
import { createClient, payload, ran, report } from "./harness.mjs";

const NAME = "bench";
const WARM = 100;
const BATCH = 100;
const [, , verb, text] = process.argv;
const count = Number(text);
const connection = createClient();

async function timed(call) {
  const began = performance.now();
  await call();
  return (performance.now() - began) / 1000;
}

if (verb === "work") {
  new Worker(NAME, async () => ran(), { connection, concurrency: 100 });
} else {
  const queue = new Queue(NAME, { connection });
  const events = new QueueEvents(NAME, { connection: createClient() });
  const send = (number) => queue.add("noop", payload(number));
  const trip = async (number) => (await send(number)).waitUntilFinished(events, 10000);
  if (verb === "trip") await events.waitUntilReady();
  for (let number = 0; number < WARM; number++) await (verb === "trip" ? trip : send)(number);
  const figures = [];
  if (verb === "trip") {
    for (let number = 0; number < count; number++) figures.push(await timed(() => trip(number)));
  } else if (verb === "many") {
    figures.push(await timed(async () => {
      for (let at = WARM; at < WARM + count; at += BATCH) {
        const some = Math.min(BATCH, WARM + count - at);
        await queue.addBulk(Array.from({ length: some }, (_, i) => ({ name: "noop", data: payload(at + i) })));
      }
    }));
  } else {
    figures.push(await timed(async () => {
      for (let number = WARM; number < WARM + count; number++) await send(number);
    }));
  }
  report(figures);
  process.exit(0);
}
