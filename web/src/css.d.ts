declare module '*.css';
declare module '@livekit/components-styles';
