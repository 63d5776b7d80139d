// Browsers refuse workers to pages that are opened from a disk. There the search runs its script
// in a hidden frame instead, behind the part of a Worker that it uses: postMessage, onmessage,
// onerror, terminate.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => {
        if (this.onmessage) this.onmessage({ data });
      };
      const script = inside.document.createElement("script");
      script.src = String(url);
      script.onload = () => {
        this.loaded = true;
        for (const data of this.waiting.splice(0)) this.hand(data);
      };
      script.onerror = (event) => {
        if (this.onerror) this.onerror(event);
      };
      inside.document.head.appendChild(script);
    }
    hand(data) {
      setTimeout(() => {
        const inside = this.frame.contentWindow;
        if (inside && inside.onmessage) inside.onmessage({ data });
      });
    }
    postMessage(data) {
      if (this.loaded) this.hand(data);
      else this.waiting.push(data);
    }
    terminate() {
      this.frame.remove();
    }
  };
}
