/** Events with types: an `EventTarget` whose listeners know what they get. */

/** An event of the client, with its fields in `detail`. */
export class ChappeEvent<T> extends Event {
  readonly detail: T;

  constructor(type: string, detail: T) {
    super(type);
    this.detail = detail;
  }
}

/** An `EventTarget` whose events are the keys of `Events`, with the values as their `detail`. */
export class TypedEventTarget<Events> {
  // Not a subclass: its methods would have to take untyped listeners, too.
  readonly #target = new EventTarget();

  /** Adds a listener. `options.signal` removes it. */
  addEventListener<Type extends keyof Events & string>(
    type: Type,
    listener: (event: ChappeEvent<Events[Type]>) => void,
    options?: AddEventListenerOptions | boolean,
  ): void {
    this.#target.addEventListener(type, listener as EventListener, options);
  }

  /** Removes a listener. */
  removeEventListener<Type extends keyof Events & string>(
    type: Type,
    listener: (event: ChappeEvent<Events[Type]>) => void,
    options?: EventListenerOptions | boolean,
  ): void {
    this.#target.removeEventListener(type, listener as EventListener, options);
  }

  /** @internal */
  emit<Type extends keyof Events & string>(type: Type, detail: Events[Type]): void {
    this.#target.dispatchEvent(new ChappeEvent(type, detail));
  }
}
