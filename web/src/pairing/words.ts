/**
 * Verification words: 256 short words that are hard to confuse, one for each byte. The list is part of the protocol:
 * both sides have to show the same words.
 */
const WORDS = `
acorn actor adobe album amber angel ankle apple april arrow aspen atlas attic award azure bacon badge bagel baker
balsa banjo barn basil beach bench berry birch bison blaze bloom board bonus boxer brave bread brick brook broom
brush cabin cable cactus camel candy canoe cargo cedar chalk charm cheek chess child chin cider cigar circus clay
cliff clock cloud clover coast cobra cocoa comet copper coral couch crane crayon crown cube daisy dance delta
denim desert diary diner disco dog dollar donut door dove dragon drum duck eagle earth easel echo elbow elm ember
empty engine equal essay event exit fable falcon feast fern ferry fiddle field flag flame flute foam forest fossil
fox frost fudge galaxy garden garlic gecko ghost giant ginger glass globe glove goat gold goose gown grape grass
guitar gull hammer harbor hat hazel helmet heron hill hippo honey hood horse hotel hunter ice igloo iron island
ivory jacket jade jaguar jazz jelly jewel juice jungle kayak kettle kiwi koala ladder lagoon lake lamp laser lemon
lily linen lion lizard llama lobby locket lotus lunar magnet mango maple marble meadow melon metal mint mirror
money moon motor mouse mule museum nail napkin navy nest noodle north nurse oak oasis ocean olive onion opera
orbit orchid otter oven owl oyster paddle palace panda paper parrot peach pearl pencil pepper piano pigeon pilot
pirate pizza planet plum poem polar pony potato prism pump quartz queen quilt rabbit radar radio raven ribbon
river robin rocket saddle sailor salmon saturn school silver spider tiger zebra
`
  .trim()
  .split(/\s+/);

/** How many words people compare: an attacker in between has one chance in 2^32, and must have guessed the code. */
export const WORD_COUNT = 4;

/** The words of {@link WORD_COUNT} bytes. */
export function wordsOf(bytes: Uint8Array): string[] {
  return Array.from(bytes.subarray(0, WORD_COUNT), (byte) => WORDS[byte] as string);
}
